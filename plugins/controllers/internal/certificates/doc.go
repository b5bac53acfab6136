// Package certificates is the csrapproving controller: it approves what kubelets ask for
// as clients of the API server, when the API says that who asks may: the subresources
// nodeclient (a node that joins) and selfnodeclient (a node that renews its own) of
// certificatesigningrequests. Nothing here signs: the authority's key is the kernel's
// alone, which signs what is approved and deletes requests that are done with.
//
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
package certificates
