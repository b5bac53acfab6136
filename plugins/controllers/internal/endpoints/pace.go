package endpoints

import (
	"sync"
	"time"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// While many pods of a Service come and go, each change would rewrite what all of them
// are listed in: work by the square. So between two syncs of a Service that pods cause
// there is a pause that grows with the pods: none for a few, 0.4 s for 200, at most 1 s.
// The first change after that is not held up.
const (
	paceFrom   = 20 // pods
	pacePerPod = 2 * time.Millisecond
	paceMost   = time.Second
)

// pace holds up the keys of Services with many pods.
type pace struct {
	loop *control.Loop

	mu   sync.Mutex           // guards next
	next map[string]time.Time // when a Service may be looked at again; only of those with many pods
}

func newPace(loop *control.Loop) *pace { return &pace{loop: loop, next: map[string]time.Time{}} }

// enqueue has a Service looked at when its pause is over.
func (p *pace) enqueue(key string) {
	if wait := p.wait(key, time.Now()); wait > 0 {
		p.loop.EnqueueAfter(key, wait)
		return
	}
	p.loop.EnqueueKey(key)
}

// wait is how long that is.
func (p *pace) wait(key string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next[key].Sub(now)
}

// looked begins the pause of a Service with so many pods.
func (p *pace) looked(key string, pods int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pods < paceFrom {
		delete(p.next, key)
		return
	}
	p.next[key] = now.Add(min(time.Duration(pods)*pacePerPod, paceMost))
}
