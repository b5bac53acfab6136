// Package kernel assembles the parts of core into what runs: a server (the
// Kubernetes API, the store, the plugin host) or an agent (a plugin host on a
// further node). It owns the order in which they start and stop.
//
// A server starts in this order, and stops in the reverse one: instance lock,
// certificates, store, API, the admin's kubeconfig, plugins. Plugins are API
// objects (kind Plugin); the kernel makes one for each built-in plugin where it
// is missing, runs what the objects say, and writes what became of it to their
// status. It waits for the API before it starts a plugin, and stops every plugin
// before it stops the API, so that a plugin can hand in its last words.
//
// An agent is told by a join file who it is; it follows the same Plugin objects
// and runs those of node scope.
//
// Either can be replaced by another binary while its plugins run on (Upgrade, and
// docs/swap.md).
//
// RunServer and RunAgent block until ctx ends and all that they began has ended.
package kernel
