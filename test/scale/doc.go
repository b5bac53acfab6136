// Command scale measures a cluster with simulated nodes: it has deployments created,
// rolled over and deleted, lets a zone die, and prints for each step how long it took,
// and the CPU seconds and memory of each process, as a Markdown table. scripts/scale
// starts the cluster; docs/sim.md tells more.
//
//	scale --keelson bin/keelson --kubeconfig F --parent PID [--nodes N --deployments D --replicas R --more M]
//
// Everything it makes is in namespaces scale-N. It is a tool, not a test: nothing passes
// or fails by its figures.
package main
