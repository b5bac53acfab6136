// Package tokens looks after secrets of type kubernetes.io/service-account-token, whose
// tokens do not end by themselves. serviceaccounttoken deletes those whose account is gone
// or is another one; legacyserviceaccounttokencleaner marks those that nobody has used for
// long as invalid, and deletes them when nobody has wanted them back for as long again
// (KEP-2800). The API server fills the secrets in and notes their use.
package tokens
