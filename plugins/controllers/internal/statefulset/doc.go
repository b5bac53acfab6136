// Package statefulset keeps the pods of StatefulSets: each with an ordinal, a name and
// claims of its own that outlive it, made and removed in order (or all at once, if the
// set is Parallel), and replaced from the highest ordinal down.
//
// In: StatefulSets, Pods, PersistentVolumeClaims and ControllerRevisions from shared
// informers. Out: pods, claims, revisions (package history), the set's status, events.
// What a set means is decide, a function without I/O; the Controller gathers what it
// needs and does what it says. Two pods of one ordinal cannot be, since the ordinal is
// the name; what has been created and deleted and not been seen yet is held in
// expectations, so a late cache does not make a rollout take more pods than it may.
package statefulset
