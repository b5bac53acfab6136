package kernel

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	// gcPercent is how much the heap grows between two collections of a server that
	// has little to do: memory counts more than the CPU of rare collections.
	gcPercent = 75
	// gcBusyPercent is that of a busy one, which collects several times a second
	// otherwise and spends a sixth of its CPU on it.
	gcBusyPercent = 300
	// gcBusyBytes bounds the growth that gcBusyPercent allows beyond gcPercent's.
	gcBusyBytes = 192 << 20
	// gcBusyInterval tells a busy server: collections follow each other faster than
	// this, counted as if the heap grew by gcPercent.
	gcBusyInterval = 2 * time.Second
)

// gcTuner chooses after each collection how far the heap may grow until the next.
type gcTuner struct {
	last    time.Time
	percent int
}

// tuneGC lets a busy server collect less often, until the process ends. GOGC in the
// environment turns it off.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &gcTuner{last: time.Now(), percent: gcPercent}
	debug.SetGCPercent(gcPercent)
	t.await()
}

// await has next called after the next collection, by the runtime's goroutine for
// cleanups.
func (t *gcTuner) await() {
	runtime.AddCleanup(new([64]byte), func(t *gcTuner) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		now := time.Now()
		percent := t.next(now.Sub(t.last), m.HeapAlloc)
		if percent != t.percent {
			debug.SetGCPercent(percent)
		}
		t.last, t.percent = now, percent
		t.await()
	}, t)
}

// next returns the percentage after a collection that came so long after the one
// before, with so many bytes alive.
func (t *gcTuner) next(since time.Duration, live uint64) int {
	if since*gcPercent/time.Duration(t.percent) > gcBusyInterval {
		return gcPercent
	}
	growth := min(live*gcBusyPercent/100, live*gcPercent/100+gcBusyBytes)
	return max(gcPercent, int(growth*100/max(live, 1)))
}
