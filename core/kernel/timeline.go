package kernel

import (
	"context"
	"time"
)

// renewEvery is how often certificates are looked at. They are renewed when a third of
// their life is left, so an hour is neither early nor late; nor does it matter that a
// timer stands still while the machine sleeps.
const renewEvery = time.Hour

// timeline is the time of a kernel; the zero value is the machine's.
type timeline struct {
	now func() time.Time
	// ticks, if there are any, are in the place of renewEvery.
	ticks <-chan time.Time
}

func (l timeline) clock() func() time.Time {
	if l.now != nil {
		return l.now
	}
	return time.Now
}

// each calls f at each tick until ctx ends.
func (l timeline) each(ctx context.Context, f func()) {
	ticks := l.ticks
	if ticks == nil {
		ticker := time.NewTicker(renewEvery)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			f()
		}
	}
}
