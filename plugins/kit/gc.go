package kit

import (
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A plugin that is busy collects less often: its heap is small, and by percentage
// alone a third of the CPU of a burst went into going through it again and again.
const (
	gcBusy = time.Second // a collection sooner than this after the one before is one in a burst
	// gcBusyBytes is how much the heap may grow between two collections in a burst.
	gcBusyBytes = 48 << 20
	gcMost      = 800              // percent
	gcCalm      = 10 * time.Second // without a burst, until memory is given back
)

// tuneGC sets how often the collector runs, from now on until the process ends.
func tuneGC() {
	debug.SetGCPercent(gcPercent)
	var percent atomic.Int64
	percent.Store(gcPercent)
	calm := time.AfterFunc(gcCalm, func() {
		percent.Store(gcPercent)
		debug.SetGCPercent(gcPercent)
		settle()
	})
	calm.Stop()
	afterGC(time.Now(), func(since time.Duration) {
		if since > gcBusy {
			return
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		want := gcPercentFor(m.HeapAlloc)
		if want != percent.Swap(want) {
			debug.SetGCPercent(int(want))
		}
		calm.Reset(gcCalm)
	})
}

// gcPercentFor is the percentage in a burst with that many bytes alive.
func gcPercentFor(live uint64) int64 {
	return min(gcMost, gcPercent+int64(gcBusyBytes*100/max(live, 1<<20)))
}

// afterGC calls f after each collection, with the time since the one before, from a
// goroutine of the runtime.
func afterGC(last time.Time, f func(since time.Duration)) {
	runtime.AddCleanup(new([64]byte), func(last time.Time) {
		now := time.Now()
		f(now.Sub(last))
		afterGC(now, f)
	}, last)
}
