package kubelet

import "time"

const (
	backoffBase  = 10 * time.Second
	backoffMax   = 5 * time.Minute
	backoffReset = 2 * backoffMax // a container that ran this long starts over with the base
)

// backoff holds growing delays by key, as the kubelet's crash loop and image pull back-off are documented: none before the first repeat,
// then base, doubling to max; reset when the last repeat is longer ago than backoffReset. It belongs to one goroutine.
type backoff map[string]*backoffItem

type backoffItem struct {
	delay time.Duration
	last  time.Time
}

// due returns when key may be tried again after an event (an exit, a failure) at that time.
func (b backoff) due(key string, event time.Time) time.Time {
	it := b[key]
	if it == nil || event.Sub(it.last) > backoffReset {
		return event
	}
	return event.Add(it.delay)
}

// delay returns the current delay of key.
func (b backoff) delay(key string) time.Duration {
	if it := b[key]; it != nil {
		return it.delay
	}
	return 0
}

// next notes that key is tried again now after an event at that time.
func (b backoff) next(key string, event, now time.Time) {
	it := b[key]
	if it == nil || event.Sub(it.last) > backoffReset {
		b[key] = &backoffItem{delay: backoffBase, last: now}
		return
	}
	it.delay, it.last = min(2*it.delay, backoffMax), now
}

// seed restores the delay of a container that this process did not start: attempt restarts have happened before, the last at started.
func (b backoff) seed(key string, attempt int32, started time.Time) {
	if b[key] != nil || attempt <= 0 {
		return
	}
	delay := backoffMax
	if attempt <= 5 {
		delay = min(backoffBase<<(attempt-1), backoffMax)
	}
	b[key] = &backoffItem{delay: delay, last: started}
}

// retry is a delay for operations of our own (volumes, sandbox, runtime calls): doubling from first to last, reset on success.
type retry struct {
	first, last time.Duration
	delay       time.Duration
	at          time.Time
}

// failed notes a failure now.
func (r *retry) failed(now time.Time) {
	if r.delay == 0 {
		r.delay = r.first
	} else {
		r.delay = min(2*r.delay, r.last)
	}
	r.at = now.Add(r.delay)
}

func (r *retry) reset() { r.delay, r.at = 0, time.Time{} }
