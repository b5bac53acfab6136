package pluginhost

import (
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffMax   = 30 * time.Second
	// healthyAfter is how long a process has to run to start from the beginning.
	healthyAfter = 60 * time.Second
)

// backoff decides how long to wait before the next start. Its zero value is ready.
type backoff struct{ failures int }

// next is the wait after a process that ran for the given time. The first is zero: a
// plugin that was killed is back at once.
func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= healthyAfter {
		b.failures = 0
	}
	b.failures++
	if b.failures == 1 {
		return 0
	}
	wait := backoffMax
	if shift := b.failures - 2; shift < 16 {
		wait = min(backoffFirst<<shift, backoffMax)
	}
	// A tenth of jitter keeps plugins that died together from starting together.
	return wait - rand.N(wait/10+1)
}

// reset forgets earlier failures.
func (b *backoff) reset() { b.failures = 0 }
