// Package daemonset keeps one pod of each DaemonSet on each node that the pod may run on,
// and rolls them over when the template changes.
//
// In: DaemonSets, Nodes, Pods and ControllerRevisions from shared informers. Out: pods
// that name their node by an affinity, so that the scheduler binds them; revisions
// (package history); the set's status; events.
//
// What a node and its pods mean to a set is judge, a function without I/O. Its verdicts
// are kept on a board with their sums, so a change of one pod or one node costs the
// judging of that node and not of all; a new generation of the set costs all of them. The
// board's plan, again without I/O, says what to create and delete. What has been done and
// not been seen yet is held in expectations. Nothing of it has to outlive the process.
package daemonset
