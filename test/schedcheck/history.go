package schedcheck

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Event is a change of a node or a pod, as a watch tells it. One of Node and Pod is set.
type Event struct {
	Revision int64 // of the store: one order for all kinds
	Node     *corev1.Node
	Pod      *corev1.Pod
	Gone     bool
}

// History is what happened to a cluster. Its methods may be called side by side.
type History struct {
	// Namespaces are the labels of the namespaces, which do not change.
	Namespaces map[string]map[string]string
	// Schedulers are the names that the judged scheduler serves.
	Schedulers []string

	mu        sync.Mutex // guards the rest
	events    []Event
	marks     []int64
	outsiders map[types.UID]bool
}

// Add takes in an event. Those of nodes and pods may come in any order between them.
func (h *History) Add(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// Mark says that the scheduler has seen all of nodes and pods up to a revision.
func (h *History) Mark(revision int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = append(h.marks, revision)
}

// Outsider says that somebody else gave the pod its node, or has tried to: its binding is
// not judged.
func (h *History) Outsider(uid types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.outsiders == nil {
		h.outsiders = map[types.UID]bool{}
	}
	h.outsiders[uid] = true
}

// Seen says whether the event of a revision, or a later one of the same kind, is there.
func (h *History) Seen(node bool, revision int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if (e.Node != nil) == node && e.Revision >= revision {
			return true
		}
	}
	return false
}

// now is the state after all events; h.mu is held.
func (h *History) now() *State {
	s := &State{Nodes: map[string]*corev1.Node{}, Pods: map[types.UID]*corev1.Pod{}, Namespaces: h.Namespaces}
	slices.SortStableFunc(h.events, func(a, b Event) int { return cmp.Compare(a.Revision, b.Revision) })
	for _, e := range h.events {
		s.apply(e)
	}
	return s
}

func (s *State) apply(e Event) {
	switch {
	case e.Node != nil && e.Gone:
		delete(s.Nodes, e.Node.Name)
	case e.Node != nil:
		s.Nodes[e.Node.Name] = e.Node
	case e.Gone:
		delete(s.Pods, e.Pod.UID)
	default:
		s.Pods[e.Pod.UID] = e.Pod
	}
}

// Now is the state after all events so far.
func (h *History) Now() *State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now()
}

// Overlooked says, by pod, which nodes would take pods that wait without one: that should be
// none once the scheduler has had the time. A pod with a nomination holds its place against
// those that are not above it.
func (h *History) Overlooked() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.now()
	var out []string
	for _, pod := range s.Pods {
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || len(pod.Spec.SchedulingGates) > 0 || !slices.Contains(h.Schedulers, pod.Spec.SchedulerName) {
			continue
		}
		for name := range s.Nodes {
			if len(s.Refusals(pod, name)) == 0 && len(s.withNominated(pod).Refusals(pod, name)) == 0 {
				out = append(out, fmt.Sprintf("pod %s waits, and would fit on node %s", pod.Name, name))
			}
		}
	}
	slices.Sort(out)
	return out
}

func (s *State) withNominated(pod *corev1.Pod) *State {
	out := &State{Nodes: s.Nodes, Pods: maps.Clone(s.Pods), Namespaces: s.Namespaces}
	for uid, p := range s.Pods {
		if p.Spec.NodeName == "" && p.Status.NominatedNodeName != "" && priority(p) >= priority(pod) {
			out.Pods[uid] = placed(p, p.Status.NominatedNodeName)
		}
	}
	return out
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func placed(p *corev1.Pod, node string) *corev1.Pod {
	p = p.DeepCopy()
	p.Spec.NodeName = node
	return p
}
