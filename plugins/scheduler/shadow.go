package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/kit"
)

// heldFor is how long a shadow counts a pod where it would have put it, while the API shows
// the pod nowhere: the active scheduler has decided otherwise then.
const heldFor = 30 * time.Second

var _ kit.Shadower = (*Server)(nil)

// shadow is what a scheduler without effect knows besides. Its zero value is one that
// works.
type shadow struct {
	mu   sync.Mutex // guards all
	on   bool
	held []held // pods that were given a node here, the oldest first
}

// held is a pod that was given a node here.
type held struct {
	uid   types.UID
	until time.Time
}

// Shadow decides as Start does, on a cache that follows what the active scheduler binds,
// and writes nothing.
func (s *Server) Shadow(ctx context.Context) error {
	if s.client == nil {
		return fmt.Errorf("start scheduler: there is no API to work with")
	}
	s.env.Health.SetStarting("Waiting for the caches to fill")
	if err := s.catchUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("fill the caches: %w", err)
	}
	s.shadow.start()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.queue.run(ctx) })
	s.env.Health.SetReady()
	s.env.Log.Info("Scheduler decides as a shadow: it binds nothing", "schedulerName", s.config.SchedulerName)
	for {
		x := s.queue.pop(ctx)
		if x == nil {
			return nil
		}
		s.consider(x)
	}
}

// consider decides on a pod, tells what, and leaves it at that.
func (s *Server) consider(x *queued) {
	info := s.queue.current(x)
	if info.pod.DeletionTimestamp != nil || gated(info.pod) {
		s.queue.done(x)
		return
	}
	if s.shadow.expire(time.Now(), s.cache.forget) {
		s.queue.event(filterNodeResourcesFit | filterNodePorts | filterPodTopologySpread | filterInterPodAffinity)
	}
	start := time.Now()
	d, assumed := s.cache.consider(s.env.Life(), info, s.profiles[info.pod.Spec.SchedulerName])
	if d.placed {
		s.queue.done(x)
		return
	}
	s.metrics.attempt(d, time.Since(start))
	s.tell(info, d)
	if assumed {
		s.shadow.hold(info.pod.UID, time.Now().Add(heldFor))
	}
	if d.node == "" {
		s.queue.retry(x, d.blame)
	} else {
		s.queue.done(x)
	}
}

// considerLate decides on a pod that the active scheduler has bound before its turn came
// here.
func (s *Server) considerLate(uid types.UID) {
	if !s.shadow.isOn() {
		return
	}
	if x := s.queue.take(uid); x != nil {
		s.consider(x)
	}
}

// tell tells those who compare what was decided.
func (s *Server) tell(info *podInfo, d decision) {
	if !s.env.Decisions.Followed() {
		return
	}
	what := kit.Decision{Key: string(info.pod.UID), Subject: info.pod.Namespace + "/" + info.pod.Name, Value: d.node}
	if d.node == "" {
		what.Value, what.Reason = kit.Unschedulable, d.message
	}
	s.env.Decisions.Tell(what)
}

func (h *shadow) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.on = true
}

func (h *shadow) isOn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on
}

func (h *shadow) hold(uid types.UID, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = append(h.held, held{uid, until})
}

// expire forgets those that are held for long enough, and says whether there were any.
func (h *shadow) expire(now time.Time, forget func(types.UID)) bool {
	h.mu.Lock()
	n := 0
	for n < len(h.held) && !now.Before(h.held[n].until) {
		n++
	}
	over := h.held[:n]
	h.held = h.held[n:]
	h.mu.Unlock()
	for _, one := range over {
		forget(one.uid)
	}
	return len(over) > 0
}

// consider is decide for a shadow: it decides on a pod that somebody has placed meanwhile
// as if it were nowhere, and leaves it where it is. assumed: it counts where we put it.
func (c *nodeCache) consider(ctx context.Context, p *podInfo, pr *profile) (d decision, assumed bool) {
	parts, no := pr.beginParts(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.pods[p.pod.UID]
	if at != nil && at.assumed {
		return decision{placed: true}, false
	}
	if at != nil {
		c.removeLocked(p.pod.UID)
	}
	d = c.decideLocked(ctx, p, pr, parts, no)
	switch {
	case at != nil:
		c.addLocked(at.info, at.node, false)
	case d.node != "":
		c.assumeLocked(p, d.node)
		assumed = true
	}
	return d, assumed
}

// take takes a pod off that waits for its turn, as pop does. Nil: it does not.
func (q *queue) take(uid types.UID) *queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := q.all[uid]
	if x == nil {
		return nil
	}
	switch x.place {
	case inActive:
		q.active.remove(x)
	case inBackoff:
		q.backoff.remove(x)
	default:
		return nil
	}
	q.fly(x)
	return x
}
