package daemonset

import (
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// burst bounds what one sync creates or deletes, so that one large set does not keep the
// others waiting.
const burst = 500

// board has the verdicts on all nodes, and their sums.
type board struct {
	*rules

	verdicts map[string]*verdict
	sum      sums
	// Nodes by what there is to do on them.
	acting, spent, outdated map[string]*verdict
	waking                  map[string]time.Time // when to judge a node again
}

type sums struct{ desired, current, misscheduled, ready, available, updated, down, surging int }

func newBoard(r *rules) *board {
	return &board{
		rules: r, verdicts: map[string]*verdict{}, acting: map[string]*verdict{}, spent: map[string]*verdict{},
		outdated: map[string]*verdict{}, waking: map[string]time.Time{},
	}
}

// put puts v in place of the verdict on the node. A nil node without anything to do is
// forgotten.
func (b *board) put(node string, there bool, v *verdict, now time.Time) {
	if old := b.verdicts[node]; old != nil {
		b.sum.add(old, -1)
	}
	delete(b.verdicts, node)
	delete(b.acting, node)
	delete(b.spent, node)
	delete(b.outdated, node)
	delete(b.waking, node)
	if !there && len(v.remove) == 0 {
		return
	}
	b.verdicts[node] = v
	b.sum.add(v, 1)
	if v.create || len(v.remove)+len(v.ended) > 0 {
		b.acting[node] = v
	}
	switch {
	case v.old == nil:
	case v.spent:
		b.spent[node] = v
	default:
		b.outdated[node] = v
	}
	if v.wake > 0 {
		b.waking[node] = now.Add(v.wake)
	}
}

func (s *sums) add(v *verdict, n int) {
	for _, x := range []struct {
		count *int
		yes   bool
	}{
		{&s.desired, v.desired}, {&s.current, v.current}, {&s.misscheduled, v.misscheduled}, {&s.ready, v.ready},
		{&s.available, v.available}, {&s.updated, v.updated}, {&s.down, v.down}, {&s.surging, v.surging},
	} {
		if x.yes {
			*x.count += n
		}
	}
}

// plan is what to do now.
type plan struct {
	create []string // nodes
	remove []*corev1.Pod
	ended  []ended
}

// ended is a pod that has ended on a node.
type ended struct {
	node string
	pod  *corev1.Pod
}

func (b *board) plan() *plan {
	p := &plan{}
	for _, node := range slices.Sorted(maps.Keys(b.acting)) {
		v := b.acting[node]
		if v.create {
			p.create = append(p.create, node)
		}
		p.remove = append(p.remove, v.remove...)
		for _, pod := range v.ended {
			p.ended = append(p.ended, ended{node, pod})
		}
	}
	if b.rolling {
		b.roll(p)
	}
	p.create, p.remove = p.create[:min(len(p.create), burst)], p.remove[:min(len(p.remove), burst)]
	return p
}

// roll replaces old pods: those that are not available anyway at once, the others as far
// as maxUnavailable, or maxSurge, lets it.
func (b *board) roll(p *plan) {
	room := b.maxUnavailable() - b.sum.down
	if b.surge {
		room = scaled(surgeOf(b.set), b.sum.desired, 0) - b.sum.surging
	}
	next := slices.Sorted(maps.Keys(b.spent))
	if room > 0 && len(b.outdated) > 0 {
		all := slices.Sorted(maps.Keys(b.outdated))
		next = append(next, all[:min(room, len(all))]...)
	}
	for _, node := range next {
		if b.surge {
			p.create = append(p.create, node)
		} else {
			p.remove = append(p.remove, b.verdicts[node].old)
		}
	}
}

func (b *board) maxUnavailable() int {
	var v = b.set.Spec.UpdateStrategy.RollingUpdate
	if v == nil {
		return 1
	}
	return max(scaled(v.MaxUnavailable, b.sum.desired, 1), 1)
}

func (b *board) status(set *appsv1.DaemonSet, collisions *int32) appsv1.DaemonSetStatus {
	s := *set.Status.DeepCopy()
	s.ObservedGeneration, s.CollisionCount = set.Generation, collisions
	s.DesiredNumberScheduled, s.CurrentNumberScheduled = int32(b.sum.desired), int32(b.sum.current)
	s.NumberMisscheduled, s.NumberReady = int32(b.sum.misscheduled), int32(b.sum.ready)
	s.NumberAvailable, s.UpdatedNumberScheduled = int32(b.sum.available), int32(b.sum.updated)
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}

// due are the nodes to judge again by now, and when the next one will be; 0: none.
func (b *board) due(now time.Time) (nodes []string, next time.Duration) {
	for node, at := range b.waking {
		in := at.Sub(now)
		switch {
		case in <= 0:
			nodes = append(nodes, node)
		case next == 0 || in < next:
			next = in
		}
	}
	return nodes, next
}
