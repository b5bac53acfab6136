package scheduler

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// part is a filter that concerns few pods (volumes, claims, groups, extenders). A
// pod that it does not concern costs one call of begin and nothing else.
type part interface {
	// name is upstream's name of the plugin.
	name() string
	// filter is the part's own bit. queue.event and queue.eventFor with it wake
	// the pods that the part has turned down.
	filter() filterSet
	// begin is called at the start of each attempt, without the cache's lock and
	// by one goroutine at a time. It does no I/O. Nil, nil: the pod does not
	// concern the part. A rejection means that no node will do.
	begin(p *podInfo) (partState, *rejection)
}

// partState is a part's view of one attempt of one pod. The cycle calls fits and
// reserve with the cache locked, so they do no I/O and do not call the cache.
type partState interface {
	// fits tells why the pod may not be on the node. Nil: it may.
	fits(n *nodeInfo) *rejection
	// reserve takes, in the part's own books, what the pod needs on the node that
	// was chosen. An error ends the attempt; unreserve is called then too.
	reserve(node string) error
	// unreserve undoes reserve. It is called by any goroutine, once, if the pod
	// is not bound after all; without the cache's lock.
	unreserve(node string)
	// preBind does what must be written before the binding, and may wait as long
	// as ctx lives, for other pods too. It runs in a goroutine of the pod's own.
	// A *rejection makes the pod wait for an event for the part; after another
	// error it is tried again when its back-off is over.
	preBind(ctx context.Context, node string) error
}

// Abilities that a partState may have besides.
type (
	// partScorer adds its weighted scores, as many as there are nodes, to the
	// totals.
	partScorer interface {
		score(nodes []*nodeInfo, totals []int64)
	}
	// partRemover tells whether the pod fits on the node if the removed pods were
	// gone. Without it, preemption takes what fits says.
	partRemover interface {
		fitsWithout(n *nodeInfo, removed []*podInfo) *rejection
	}
	// partNarrower looks at all nodes that suit at once. It may do I/O: it is
	// called without the cache's lock, and the node chosen in the end is looked
	// at again.
	partNarrower interface {
		narrow(ctx context.Context, nodes []*corev1.Node) (narrowed, error)
	}
	// partBinder binds in the API server's stead. False: it does not care to.
	partBinder interface {
		bind(ctx context.Context, pod *corev1.Pod, node string) (bool, error)
	}
)

// Abilities that a part may have besides.
type (
	// partGate holds pods back before they are tried at all (it must not call the
	// queue). "" admits the pod;
	// else it is the reason. An event with the part's bit asks again.
	partGate interface {
		hold(pod *corev1.Pod) string
	}
)

// narrowed is what a partNarrower makes of the nodes. Rejected has those that will
// not do; scores (by name) are added to the totals as they are.
type narrowed struct {
	rejected map[string]*rejection
	scores   map[string]int64
}

// rejection is why a node, or every node, will not do for a pod.
type rejection struct {
	reasons []string // upstream's words
	// unresolvable: no removal of pods would help.
	unresolvable bool
	// filter is whom to blame; the cycle fills it in for parts.
	filter filterSet
}

// Error makes a rejection fit for preBind.
func (r *rejection) Error() string { return strings.Join(r.reasons, ", ") }

// reject is a rejection for one reason that other pods have a part in.
func reject(reason string) *rejection { return &rejection{reasons: []string{reason}} }

// rejectForGood is a rejection that no removal of pods would change.
func rejectForGood(reason string) *rejection {
	return &rejection{reasons: []string{reason}, unresolvable: true}
}

// concern is a part that has to do with the pod at hand.
type concern struct {
	part  part
	state partState
}

// fits asks the part about a node that the gone pods have been taken off.
func (one *concern) fits(n *nodeInfo, gone []*podInfo) *rejection {
	var no *rejection
	if remover, ok := one.state.(partRemover); ok && len(gone) > 0 {
		no = remover.fitsWithout(n, gone)
	} else {
		no = one.state.fits(n)
	}
	if no != nil {
		no.filter |= one.part.filter()
	}
	return no
}

// beginParts asks every part of the profile whether the pod concerns it.
func (pr *profile) beginParts(p *podInfo) ([]concern, *rejection) {
	var out []concern
	for _, one := range pr.parts {
		state, no := one.begin(p)
		if no != nil {
			no.filter |= one.filter()
			return nil, no
		}
		if state != nil {
			out = append(out, concern{one, state})
		}
	}
	return out, nil
}

// held is why a part does not want the pod tried yet. "" if none.
func (pr *profile) held(pod *corev1.Pod) (string, filterSet) {
	for _, one := range pr.parts {
		if g, ok := one.(partGate); ok {
			if reason := g.hold(pod); reason != "" {
				return reason, one.filter()
			}
		}
	}
	return "", 0
}
