package scheduler

import (
	"container/heap"
	"context"
	"math/bits"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

const (
	// stuckAfter is when a pod that no event has helped is tried all the same.
	stuckAfter = 5 * time.Minute
	// stuckCheck is how often that is looked for.
	stuckCheck = 30 * time.Second
)

// queued is a pod that has no node yet.
type queued struct {
	info     *podInfo
	since    time.Time // when it came; the order within a priority
	attempts int
	ready    time.Time // end of its back-off
	parked   time.Time // when it became unschedulable
	blame    filterSet // the filters that rejected it
	index    int       // in its heap
	place    queuePlace
	moved    filterSet // events during its attempt
	gone     bool      // deleted during its attempt
}

type queuePlace int

const (
	inActive queuePlace = iota
	inBackoff
	inUnschedulable
	inFlight
)

// queue holds every pod without a node, in one of four places: active, in
// back-off, unschedulable until an event helps, or in flight, from pop to done
// or retry. It is unbounded, as the pods themselves are.
type queue struct {
	initial, max time.Duration
	now          func() time.Time
	// held is why a part does not want a pod tried yet, and which. Nil: never.
	held func(*corev1.Pod) (string, filterSet)

	mu      sync.Mutex
	all     map[types.UID]*queued // guarded by mu, like the rest
	parked  map[*queued]struct{}  // those of all that are unschedulable
	blamed  [32]int               // parked pods by filter
	flying  map[*queued]struct{}  // those of all that are in flight
	active  podHeap
	backoff podHeap
	wake    chan struct{} // has room for one: active has grown
	timer   chan struct{} // has room for one: back-off has changed
}

func newQueue(initial, max time.Duration) *queue {
	return &queue{
		initial: initial, max: max, now: time.Now, all: map[types.UID]*queued{},
		parked: map[*queued]struct{}{}, flying: map[*queued]struct{}{},
		active: podHeap{less: func(a, b *queued) bool {
			pa, pb := schedulinghelper.PodPriority(a.info.pod), schedulinghelper.PodPriority(b.info.pod)
			if pa != pb {
				return pa > pb
			}
			return a.since.Before(b.since)
		}},
		backoff: podHeap{less: func(a, b *queued) bool { return a.ready.Before(b.ready) }},
		wake:    make(chan struct{}, 1), timer: make(chan struct{}, 1),
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// set takes in a new or changed pod. A change in its spec or labels is a reason
// to try it again.
func (q *queue) set(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.all[pod.UID]
	if x == nil {
		x = &queued{info: newPodInfo(pod), since: q.now()}
		q.all[pod.UID] = x
		if gated(pod) {
			q.park(x)
			return
		}
		q.activate(x)
		return
	}
	old := x.info.pod
	if equality.Semantic.DeepEqual(old.Spec, pod.Spec) && equality.Semantic.DeepEqual(old.Labels, pod.Labels) {
		// Only its status: that is what we write ourselves.
		info := *x.info
		info.pod = pod
		x.info = &info
		return
	}
	x.info = newPodInfo(pod)
	switch {
	case x.place == inFlight:
		x.moved = allFilters
	case gated(pod):
	case x.place == inUnschedulable:
		q.revive(x)
	case x.place == inActive:
		heap.Fix(&q.active, x.index)
	}
}

func gated(pod *corev1.Pod) bool { return len(pod.Spec.SchedulingGates) > 0 }

// remove forgets a pod that is gone or has a node.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.all[uid]
	if x == nil {
		return
	}
	delete(q.all, uid)
	q.unpark(x)
	switch x.place {
	case inActive:
		q.active.remove(x)
	case inBackoff:
		q.backoff.remove(x)
	case inFlight:
		x.gone = true
	}
}

// pop waits for the next pod. It returns nil when ctx ends.
func (q *queue) pop(ctx context.Context) *queued {
	for ctx.Err() == nil {
		q.mu.Lock()
		if q.active.Len() > 0 {
			x := heap.Pop(&q.active).(*queued)
			q.fly(x)
			q.mu.Unlock()
			return x
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
	}
	return nil
}

// fly begins a pod's attempt; q.mu is held.
func (q *queue) fly(x *queued) {
	x.place, x.moved = inFlight, 0
	x.attempts++
	q.flying[x] = struct{}{}
}

// current is the pod as last seen, for one in flight.
func (q *queue) current(x *queued) *podInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.info
}

// done ends a pod's flight for good.
func (q *queue) done(x *queued) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.flying, x)
	if q.all[x.info.pod.UID] == x {
		delete(q.all, x.info.pod.UID)
	}
}

// retry ends a pod's flight without a node. With blame it waits for an event
// that concerns one of those filters, unless one came during the flight;
// without, the attempt itself failed, and back-off is all it waits for.
func (q *queue) retry(x *queued, blame filterSet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.flying, x)
	if x.gone {
		return
	}
	x.ready = q.now().Add(q.delay(x.attempts))
	x.blame = blame
	if blame != 0 && x.moved&blame == 0 {
		q.park(x)
		return
	}
	q.revive(x)
}

func (q *queue) delay(attempts int) time.Duration {
	d := q.initial
	for i := 1; i < attempts && d < q.max; i++ {
		d *= 2
	}
	return min(d, q.max)
}

// event revives the unschedulable pods that one of the filters had rejected.
func (q *queue) event(helps filterSet) { q.eventFor(helps, nil) }

// eventFor is event for those pods only that help says it may help; nil is all.
// It is asked for each pod that waits for one of the filters, and must not call the
// queue.
func (q *queue) eventFor(helps filterSet, help func(*podInfo) bool) {
	if help == nil {
		q.eventBy(helps, nil)
		return
	}
	q.eventBy(helps, func(p *podInfo, _ filterSet) bool { return help(p) })
}

// eventBy is eventFor with a hint that is told the filters in question too.
func (q *queue) eventBy(helps filterSet, h hint) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for x := range q.flying {
		if h == nil {
			x.moved |= helps
			continue
		}
		for left := helps &^ x.moved; left != 0; left &= left - 1 {
			if f := left & -left; h(x.info, f) {
				x.moved |= f
			}
		}
	}
	if q.waiting(helps) == 0 {
		return
	}
	for x := range q.parked {
		if f := x.blame & helps; f != 0 && (h == nil || h(x.info, f)) {
			q.revive(x)
		}
	}
}

// concerns tells whether there is any pod that an event may help.
func (q *queue) concerns(helps filterSet) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.flying) > 0 || q.waiting(helps) > 0
}

// waiting is at least one if a parked pod is blamed on one of the filters.
func (q *queue) waiting(helps filterSet) int {
	n := 0
	for f := helps; f != 0; f &= f - 1 {
		n += q.blamed[bits.TrailingZeros32(uint32(f))]
	}
	return n
}

func (q *queue) unpark(x *queued) {
	if _, ok := q.parked[x]; ok {
		delete(q.parked, x)
		q.tally(x.blame, -1)
	}
}

func (q *queue) tally(blame filterSet, by int) {
	for f := blame; f != 0; f &= f - 1 {
		q.blamed[bits.TrailingZeros32(uint32(f))] += by
	}
}

func (q *queue) park(x *queued) {
	x.place, x.parked = inUnschedulable, q.now()
	q.parked[x] = struct{}{}
	q.tally(x.blame, 1)
}

func (q *queue) activate(x *queued) {
	if q.held != nil {
		if reason, blame := q.held(x.info.pod); reason != "" {
			x.blame = blame
			q.park(x)
			return
		}
	}
	x.place = inActive
	heap.Push(&q.active, x)
	signal(q.wake)
}

func (q *queue) revive(x *queued) {
	q.unpark(x)
	if !x.ready.After(q.now()) {
		q.activate(x)
		return
	}
	x.place = inBackoff
	heap.Push(&q.backoff, x)
	signal(q.timer)
}

// run ends back-offs until ctx ends.
func (q *queue) run(ctx context.Context) {
	for {
		timer := time.NewTimer(q.flush())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-q.timer:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// flush moves pods whose wait is over, and returns how long until the next.
func (q *queue) flush() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	for q.backoff.Len() > 0 && !q.backoff.items[0].ready.After(now) {
		q.activate(heap.Pop(&q.backoff).(*queued))
	}
	wait := time.Hour
	for x := range q.parked {
		if gated(x.info.pod) {
			continue
		}
		wait = stuckCheck
		if now.Sub(x.parked) > stuckAfter {
			q.revive(x)
		}
	}
	if q.backoff.Len() > 0 {
		wait = min(wait, q.backoff.items[0].ready.Sub(now))
	}
	return max(wait, time.Millisecond)
}

// lengths counts the pods by place.
func (q *queue) lengths() (active, backoff, unschedulable, gatedPods int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, x := range q.all {
		switch {
		case x.place == inActive || x.place == inFlight:
			active++
		case x.place == inBackoff:
			backoff++
		case gated(x.info.pod):
			gatedPods++
		default:
			unschedulable++
		}
	}
	return active, backoff, unschedulable, gatedPods
}

// podHeap is a heap of pods that knows where each is.
type podHeap struct {
	items []*queued
	less  func(a, b *queued) bool
}

// Len, Less, Swap, Push and Pop are heap.Interface.
func (h *podHeap) Len() int           { return len(h.items) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *podHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *podHeap) Push(x any) {
	item := x.(*queued)
	item.index = len(h.items)
	h.items = append(h.items, item)
}
func (h *podHeap) Pop() any {
	last := len(h.items) - 1
	x := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return x
}

// remove takes one out that is in the heap.
func (h *podHeap) remove(x *queued) { heap.Remove(h, x.index) }
