// Package apiserver serves the Kubernetes API: k8s.io/apiserver's generic
// server over core/registry's kinds, core/store's storage and core/auth's
// identities and rights.
//
// A request goes through: panic recovery, request info, deadline and timeout,
// authentication (client certificate, service account token; anonymous for the
// health and version paths only), impersonation, a limit of requests in flight,
// RBAC, and then the kind's handler with admission, validation and storage.
// There is no watch cache between handler and store: the store keeps decoded
// objects and fans out watches itself.
//
// New does all that can fail because of the configuration: it listens, makes
// the serving certificate and installs the API. Start serves until its context
// ends. The goroutines, all ended and awaited by Start: the generic server's,
// informers for RBAC, namespaces and service accounts (over the loopback
// connection), and keepers, which write the objects that every cluster has
// (default roles, four namespaces, the service "kubernetes" with its endpoints)
// and put them right when somebody changes them.
//
// The Kubernetes libraries below log to klog, which is the process's: whoever runs
// the process sends it to its own logger (core/kernel does).
package apiserver
