// Package binary passes the plugins of the built keelson binary through the suites of their
// contracts: each a process of the plugin host beside a real API server. The network's is in
// network and mount namespaces of its own.
package binary
