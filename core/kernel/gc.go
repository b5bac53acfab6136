package kernel

import (
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"keelson.dev/keelson/proto/libmem"
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
	// gcBusyAgain is the same once the start is over.
	gcBusyAgain = 3
	// gcCalm is how long after the last collection memory that is free is given back.
	gcCalm = 15 * time.Second
	// gcWorthwhile is how much must have been allocated since memory was given back, to
	// do it again: an idle server stays below it between two collections.
	gcWorthwhile = 16 << 20
)

// gcTuner chooses after each collection how far the heap may grow until the next.
type gcTuner struct {
	last    time.Time
	percent int
	streak  int         // collections in a row that came fast
	calm    *time.Timer // gives memory back
	given   uint64      // bytes allocated in all when memory was last given back
	giving  atomic.Bool // memory is being given back: the next collection is that of it
	started atomic.Bool // memory was given back once: the start is over
}

// tuneGC lets a busy server collect less often, until the process ends, and gives
// back after bursts what they took: free memory, and pages of the program. GOGC in
// the environment turns it off.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	t := &gcTuner{last: time.Now(), percent: gcPercent}
	t.calm = time.AfterFunc(gcCalm, func() {
		t.giving.Store(true)
		t.started.Store(true)
		debug.SetGCPercent(gcPercent) // the collection that follows lets t know
		debug.FreeOSMemory()
		_ = libmem.ReleaseProgram() // where that cannot be, the pages stay
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
		if t.giveBack(percent, m.TotalAlloc) {
			t.calm.Reset(gcCalm)
		}
		t.last, t.percent = now, percent
		t.await()
	}, t)
}

// giveBack says whether memory is to be given back if no collection follows soon.
func (t *gcTuner) giveBack(percent int, allocated uint64) bool {
	if t.giving.Swap(false) {
		t.given = allocated
	}
	return percent > gcPercent || allocated-t.given > gcWorthwhile
}

// next returns the percentage after a collection that came so long after the one
// before, with so many bytes alive. Who was busy stays so until memory is given back:
// in a pause of some seconds the runtime would return most of the heap, page by page,
// which the next burst has to get back, page fault by page fault.
func (t *gcTuner) next(since time.Duration, live uint64) int {
	if since*gcPercent/time.Duration(t.percent) > gcBusyInterval {
		if t.percent == gcPercent || since >= gcCalm || t.giving.Load() {
			t.streak = 0
			return gcPercent
		}
		return grown(live)
	}
	enough := gcBusyStreak
	if t.started.Load() {
		enough = gcBusyAgain
	}
	if t.streak++; t.streak < enough {
		return gcPercent
	}
	return grown(live)
}

// grown is the percentage of a busy server.
func grown(live uint64) int {
	growth := min(live*gcBusyPercent/100, live*gcPercent/100+gcBusyBytes)
	return max(gcPercent, int(growth*100/max(live, 1)))
}
