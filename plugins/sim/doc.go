// Package sim is the plugin that plays nodes without machines: it makes Node objects
// and does for them what a kubelet does towards the API, so that a cluster of
// thousands of nodes can be tried on one machine. No container runs.
//
// In: its own Nodes, and the pods that have a node, by one watch each, whatever the
// number of nodes. Out: leases, the nodes' heartbeats, the pods' status, and the last
// step of a pod's deletion. Of a pod only what its life takes is kept (a few hundred
// bytes); pods made from one template share the rest.
//
// What is to be done next, for a pod or a node, stands in one of two agendas, heaps by
// time: one of heartbeats and one of pods, so that a flood of pods does not make nodes
// look dead. One goroutine waits at each, and a fixed number of writers takes what is
// due. Start waits for all of them.
//
// The state is in the API. The process may die at any time: the next one takes up nodes
// and pods as it finds them. What is left out of a kubelet's work stands in README.md.
package sim
