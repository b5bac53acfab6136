// Package scheduler is the plugin that gives each new pod a node.
//
// In: Pods, Nodes, Services, Namespaces from informers. Out: bindings, the
// PodScheduled condition, events. Between them stand a cache of what each node
// has left, pods just bound included though their events are yet to come; a
// queue of pods to schedule, of which those that fit nowhere wait for an event
// that may help them; and the cycle, which takes one pod at a time through
// filters and scores.
//
// Goroutines: the informers, one cycle, one for pods in back-off, and up to
// maxWrites writers of bindings and failures; Start waits for all. The state is
// in the API: the process may die at any point, and the next one begins from
// the list of pods.
//
// Guarantees: a pod in the cache is on one node only; a pod is never placed on
// what an earlier decision has used; no pod waits for ever for an event that was
// missed (five minutes at most).
package scheduler
