package schedcheck

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// binding is a node given to a pod by the scheduler.
type binding struct {
	pod      *corev1.Pod // as it was before
	node     string
	made, at int64 // revisions of the pod's creation and of the binding
}

// Verdict is what Judge has found.
type Verdict struct {
	Bindings int      // how many were judged
	Strict   int      // how many of them on all rules at once
	Faults   []string // in order; empty if all is well
}

// Judge goes through all bindings of the scheduler.
func (h *History) Judge() Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now() // sorts
	j := &judge{h: h, mine: map[types.UID]*binding{}}
	var v Verdict
	v.Faults = j.collect()
	for _, b := range j.order {
		v.Bindings++
		strict, why := j.allowed(b)
		if strict {
			v.Strict++
		}
		if why != "" {
			v.Faults = append(v.Faults, fmt.Sprintf("revision %d: pod %s on node %s: %s", b.at, b.pod.Name, b.node, why))
		}
	}
	return v
}

// judge is one Judge under way.
type judge struct {
	h     *History
	order []*binding
	mine  map[types.UID]*binding
}

// collect finds the scheduler's bindings, and what is wrong whatever it saw.
func (j *judge) collect() (faults []string) {
	s := &State{Nodes: map[string]*corev1.Node{}, Pods: map[types.UID]*corev1.Pod{}}
	made := map[types.UID]int64{}
	touched := map[string]bool{} // nodes that somebody else has filled or made smaller
	for _, e := range j.h.events {
		if e.Node != nil {
			touched[e.Node.Name] = touched[e.Node.Name] || e.Gone || shrunk(s.Nodes[e.Node.Name], e.Node)
			s.apply(e)
			continue
		}
		old := s.Pods[e.Pod.UID]
		s.apply(e)
		node := e.Pod.Spec.NodeName
		switch {
		case e.Gone:
		case old == nil:
			made[e.Pod.UID] = e.Revision
			touched[node] = true
		case old.Spec.NodeName == node:
		case old.Spec.NodeName != "":
			faults = append(faults, fmt.Sprintf("revision %d: pod %s moved from node %s to %s", e.Revision, e.Pod.Name, old.Spec.NodeName, node))
		case j.h.outsiders[e.Pod.UID]:
			touched[node] = true
		case !slices.Contains(j.h.Schedulers, e.Pod.Spec.SchedulerName):
			faults = append(faults, fmt.Sprintf("revision %d: pod %s is of scheduler %q, and was bound", e.Revision, e.Pod.Name, e.Pod.Spec.SchedulerName))
		case len(old.Spec.SchedulingGates) > 0:
			faults = append(faults, fmt.Sprintf("revision %d: pod %s has gates, and was bound", e.Revision, e.Pod.Name))
		default:
			b := &binding{pod: old, node: node, made: made[e.Pod.UID], at: e.Revision}
			j.order, j.mine[e.Pod.UID] = append(j.order, b), b
			if n := s.Nodes[node]; n != nil && !touched[node] {
				if why := overfull(n, s.on("", node), nil); why != "" {
					faults = append(faults, fmt.Sprintf("revision %d: node %s is overcommitted by pod %s: %s", e.Revision, node, e.Pod.Name, why))
				}
			}
		}
	}
	return faults
}

func shrunk(old, cur *corev1.Node) bool {
	if old == nil {
		return false
	}
	for name, was := range old.Status.Allocatable {
		if is := cur.Status.Allocatable[name]; is.Cmp(was) < 0 {
			return true
		}
	}
	return false
}

// view is what the scheduler may have seen: nodes and pods up to a revision each.
type view struct{ nodes, pods int64 }

// allowed says whether there is a view with which the binding is right, else why the
// latest is not. strict: all rules had to hold with one view.
func (j *judge) allowed(b *binding) (strict bool, why string) {
	var before, after []*binding // those that may have been decided in another order
	for _, o := range j.order {
		switch {
		case o.at < b.at && o.at > b.made:
			before = append(before, o)
		case o.at > b.at && o.made < b.at:
			after = append(after, o)
		}
	}
	strict = len(before)+len(after) == 0
	open := map[string]string{}
	for i, v := range j.views(b) {
		refusals := j.refusals(b, v, before, after)
		switch {
		case len(refusals) == 0:
			return strict, ""
		case i == 0:
			open = refusals
		case !strict:
			maps.DeleteFunc(open, func(rule, _ string) bool { return refusals[rule] == "" })
		}
		if len(open) == 0 {
			return strict, ""
		}
	}
	return strict, fmt.Sprint(open)
}

// views are those that the scheduler may have decided on, the likeliest first.
func (j *judge) views(b *binding) []view {
	var from int64
	for _, m := range j.h.marks {
		if m <= b.made {
			from = max(from, m)
		}
	}
	nodes, pods, out := []int64{b.at}, []int64{b.at}, []view{{b.at, b.at}}
	for _, e := range slices.Backward(j.h.events) {
		r := e.Revision - 1 // as it was before the event
		switch {
		case e.Revision > b.at || e.Revision <= from:
		case e.Node != nil:
			nodes = append(nodes, r)
			out = append(out, view{r, max(r, b.made)})
		case j.mine[e.Pod.UID] == nil || e.Revision > j.mine[e.Pod.UID].at: // not counted by itself
			if r >= b.made {
				pods = append(pods, r)
				out = append(out, view{r, r})
			}
		}
	}
	for _, n := range nodes {
		for _, p := range pods {
			out = append(out, view{n, p})
		}
	}
	return out
}

// state is the cluster as in a view, with the scheduler's own bindings before a revision.
func (j *judge) state(v view, b *binding) *State {
	s := &State{Nodes: map[string]*corev1.Node{}, Pods: map[types.UID]*corev1.Pod{}, Namespaces: j.h.Namespaces}
	gone := map[types.UID]bool{}
	for _, e := range j.h.events {
		if e.Node != nil && e.Revision <= v.nodes || e.Pod != nil && e.Revision <= v.pods {
			s.apply(e)
			if e.Pod != nil && e.Gone {
				gone[e.Pod.UID] = true
			}
		}
	}
	for _, o := range j.order {
		if o.at >= b.at || gone[o.pod.UID] {
			continue
		}
		p := s.Pods[o.pod.UID]
		if p == nil {
			p = o.pod
		}
		if p.Spec.NodeName == "" {
			s.Pods[o.pod.UID] = placed(p, o.node)
		}
	}
	return s
}

// refusals is State.Refusals with one view. Of the pods decided on at about the same time,
// those that matter for order count as suits the binding.
func (j *judge) refusals(b *binding, v view, before, after []*binding) map[string]string {
	s := j.state(v, b)
	pod := s.Pods[b.pod.UID]
	if pod == nil || pod.Spec.NodeName != "" {
		pod = b.pod
	}
	out := s.Refusals(pod, b.node)
	node := s.Nodes[b.node]
	if len(out) == 0 || node == nil || len(before)+len(after) == 0 {
		return out
	}
	low := &State{Nodes: s.Nodes, Pods: maps.Clone(s.Pods), Namespaces: s.Namespaces}
	high := &State{Nodes: s.Nodes, Pods: maps.Clone(s.Pods), Namespaces: s.Namespaces}
	for _, o := range before {
		delete(low.Pods, o.pod.UID)
	}
	for _, o := range after {
		high.Pods[o.pod.UID] = placed(o.pod, o.node)
	}
	if out["PodTopologySpread"] != "" && low.skewedAtBest(high, pod, node) == "" {
		delete(out, "PodTopologySpread")
	}
	if out["InterPodAffinity"] != "" && s.unwanted(pod, node) == "" && (low.alone(pod, node) == "" || high.alone(pod, node) == "") {
		delete(out, "InterPodAffinity")
	}
	return out
}
