// Package auth knows who a request comes from and what they may do.
//
// Authentication: client certificates of the cluster CA (ClientCertificates),
// and service account tokens (Tokens), which are ES256 JSON web tokens with the
// claims Kubernetes puts into them. Tokens issues and checks them; a token that
// is bound to a pod, secret or node ends with that object, because the object is
// looked up at each use.
//
// Authorization: RBAC is an authorizer over an index of the role and binding
// objects, by subject, which informers keep current. A request costs a few map
// look-ups, however many bindings there are. Escalation is the admission check
// that nobody grants what they do not hold.
//
// Policy: Bootstrap writes the roles and bindings that Kubernetes has from the
// start, and repairs them at each start unless an object says
// rbac.authorization.kubernetes.io/autoupdate: "false". EnsurePluginRole gives
// a plugin the rights it declared, no more.
//
// The package starts no goroutine of its own; the informers handed to RBAC are
// run by their owner.
package auth
