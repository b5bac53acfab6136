// Package schedcheck judges what a scheduler did. It is a slow and obvious reading of the
// rules that Kubernetes documents for placing pods, shares no code with any scheduler, and
// uses nothing but the API's types.
//
// State.Refusals says, by name of the filter, why a pod may not go to a node: every rule is
// worked out anew from all nodes and pods. A History is a cluster's nodes, namespaces and
// pods as watches tell of them, in the order of the store. Judge goes through it and says of
// each binding whether it was allowed.
//
// A scheduler sees the cluster late: what it decided on was so a moment ago, nodes and pods
// each by their own watch. A binding is therefore allowed if there are a moment of the nodes
// and a moment of the pods, both since the last mark, at which it was; the scheduler's own
// earlier bindings always count. A mark is a moment up to which the scheduler is known to
// have seen everything. Bindings are written side by side, so the order of those is not that
// of the decisions: where several of the scheduler's pods were under way at once, each rule
// is held on its own, and those pods count or do not, as suits the binding. Pods made one by
// one are held to everything.
//
// Whatever the order, no node has more requested than it can give, unless somebody else
// bound a pod there or took from what the node has: no tolerance for that.
//
// Not judged: volumes, devices, in-place resize, scores.
package schedcheck
