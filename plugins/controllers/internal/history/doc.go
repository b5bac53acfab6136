// Package history keeps the ControllerRevisions of a StatefulSet or a DaemonSet: one
// immutable snapshot of each pod template that the set has had, named by a hash of it
// and numbered in the order in which the templates were last wanted. `kubectl rollout
// history` and `undo` read them.
//
// In: the set, and the revisions in a shared informer. Out: revisions created,
// renumbered, adopted and deleted. No goroutine; one Keeper serves all workers of its
// controller, of which at most one works on a set.
package history
