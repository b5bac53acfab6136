// Package controllers is the plugin that keeps the cluster's objects as they
// were asked for: deployments and their replica sets, endpoints of services,
// the defaults and the end of namespaces, garbage, nodes.
//
// In and out is the Kubernetes API alone. All controllers share one set of
// informers, which keep objects without their managed fields; each controller
// is a package of its own under internal/, and can be switched off.
//
// Goroutines: one informer for each resource, and one or more workers for each
// controller; Start waits for all of them. The state is in the API, so the
// process may die at any point: the next one goes on where it stopped.
package controllers
