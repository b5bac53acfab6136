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
	// gcBusyStreak is how many such collections in a row make a server busy: its own
	// start has fewer.
	gcBusyStreak = 12
	// gcCalm is how long after the last collection of a busy server its memory is
	// given back.
	gcCalm = 15 * time.Second
)

// gcTuner chooses after each collection how far the heap may grow until the next.
type gcTuner struct {
	last    time.Time
	percent int
	streak  int         // collections in a row that came fast
	calm    *time.Timer // gives memory back; runs while percent is raised
}

// tuneGC lets a busy server collect less often, until the process ends. GOGC in the
// environment turns it off.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &gcTuner{last: time.Now(), percent: gcPercent}
	t.calm = time.AfterFunc(gcCalm, func() {
		debug.SetGCPercent(gcPercent) // the collection that follows lets t know
		debug.FreeOSMemory()
	})
	t.calm.Stop()
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
		t.calm.Stop()
		if percent > gcPercent {
			t.calm.Reset(gcCalm)
		}
		t.last, t.percent = now, percent
		t.await()
	}, t)
}

// next returns the percentage after a collection that came so long after the one
// before, with so many bytes alive.
func (t *gcTuner) next(since time.Duration, live uint64) int {
	if since*gcPercent/time.Duration(t.percent) > gcBusyInterval {
		t.streak = 0
		return gcPercent
	}
	if t.streak++; t.streak < gcBusyStreak {
		return gcPercent
	}
	growth := min(live*gcBusyPercent/100, live*gcPercent/100+gcBusyBytes)
	return max(gcPercent, int(growth*100/max(live, 1)))
}
