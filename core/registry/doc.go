// Package registry is the API's content: its kinds, in one folder per API
// group and one file per kind. A kind is described once, as a
// resource.Definition of data and small functions; adding a kind is adding a
// file and a line in its group's list.
//
// APIGroups makes the REST storage of all kinds for the generic API server.
// What they need of the server around them (storage, kubelets, tokens,
// plugins, authorization) comes through Config.
//
// No goroutines run here. What upstream runs in the API server beside the
// registry (the kubernetes service, system namespaces, bootstrap RBAC) is the
// apiserver package's.
package registry
