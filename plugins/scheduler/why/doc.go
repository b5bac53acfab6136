// Package why explains, from the API's objects alone, why a pod has no node: for each node
// every filter that turns it down, with the numbers, and what would help. It works in any
// cluster, whatever its scheduler.
//
// In: a Cluster, which Fetch reads through a client. Out: a Report. Explain changes nothing
// and starts nothing. It looks at the documented rules: cordons, taints, node names, labels
// and affinity, host ports, resources, spread constraints, affinity between pods, and the
// node affinity of volumes. It leaves out volume limits, devices, extenders, and what a
// scheduler's own configuration adds.
package why
