// Package network passes the built keelson binary's network plugin through the suite of its
// contract: a process of the plugin host beside a real API server, in network and mount
// namespaces of its own.
package network
