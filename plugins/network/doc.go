// Package network joins pods to the pod network of their node and the nodes to each
// other. It serves network.v1: each sandbox gets a veth pair from the bridge keelson0,
// an address of its own from the node's range and its host ports.
//
// Pods hold their address with a full-length prefix and reach everything through the
// gateway on the bridge, their neighbours included. So every packet passes the node's
// routing and filters whether or not br_netfilter is loaded, and replies of services
// find their way back through the same translation. A pod's MAC address is derived from
// its IP address: an address that is given out again needs no new neighbour entry.
//
// Goroutines: one serves gRPC, one follows the Node objects, one reconciles what is on
// disk with the kernel every ten seconds; all end with Start. Everything in the kernel and
// on disk outlives the process; a new one adopts it. An address is on disk before it is
// used and leaves the disk after it is no longer used, so none is given out twice; the
// address of a sandbox that vanished without Teardown is freed by the reconciler.
package network
