// Package bootstrap looks after the tokens of joining nodes, which are secrets of type
// bootstrap.kubernetes.io/token in kube-system: tokencleaner deletes those that have
// expired, and bootstrapsigner signs the kubeconfig in the config map cluster-info of
// kube-public with each of them, so that who knows a token can trust what it reads there
// before it trusts the server. The config map is for whoever sets a cluster up to make.
//
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
package bootstrap
