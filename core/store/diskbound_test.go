package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// diskBound is what docs/store.md promises once writes have calmed down: tables of twice the live data and the slack, and
// four write-ahead logs with their blocks.
func diskBound(db *DB) int64 {
	return 2*db.liveBytes() + db.opts.slack() + 4*db.opts.memTable*5/4 + 4<<20
}

// simulated is a cluster whose hours pass quickly: nodes renew leases, pods change their status, come and go, and events
// are counted up and end.
type simulated struct {
	t            *testing.T
	db           *DB
	leases, pods int
	written      atomic.Int64
}

const simWorkers = 64

// minute has one of the workers do its part of a minute.
func (s *simulated) minute(worker, minute int, r *rand.Rand) error {
	write := func(kind opKind, key string, size int, expires int64) error {
		v, found, _ := s.db.latest(key)
		if kind == opDelete && !found {
			return nil
		}
		value := make([]byte, size)
		for i := range value {
			value[i] = byte(r.Uint32())
		}
		s.written.Add(int64(size))
		err := s.db.submit(s.t.Context(), &op{kind: kind, key: key, expect: v.rev, value: value, expires: expires})
		if errors.Is(err, errConflict) && expires != 0 {
			return nil // it reached its end meanwhile
		}
		return err
	}
	for i := worker; i < s.leases; i += simWorkers {
		for range 6 {
			if err := write(opPut, fmt.Sprintf("/registry/leases/kube-node-lease/sim-%d", i), 300, 0); err != nil {
				return err
			}
		}
	}
	for i := worker; i < s.pods; i += simWorkers {
		key := fmt.Sprintf("/registry/pods/ns/%d", i)
		kind := opPut
		if (i+minute)%7 == 0 {
			kind = opDelete // back in the next minute
		}
		if err := write(kind, key, 1500, 0); err != nil {
			return err
		}
		if i%5 == 0 {
			if err := write(opPut, fmt.Sprintf("/registry/events/ns/%d", i), 500, time.Now().Unix()+2); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *simulated) run(minutes int, each func(minute int)) {
	for m := range minutes {
		var wg sync.WaitGroup
		for w := range simWorkers {
			wg.Go(func() {
				if err := s.minute(w, m, rand.New(rand.NewPCG(uint64(m), uint64(w)))); err != nil {
					s.t.Error(err)
				}
			})
		}
		wg.Wait()
		if s.t.Failed() {
			s.t.FailNow()
		}
		each(m)
	}
}

// TestDiskBound writes many times what stays, and wants disk and index to stay in proportion to that.
func TestDiskBound(t *testing.T) {
	s := &simulated{t: t, leases: 500, pods: 1000}
	minutes := 20
	o := Options{memTable: 1 << 20, CompactionWindow: 200 * time.Millisecond, BatchInterval: 100 * time.Millisecond, MinFreeBytes: -1}
	switch {
	case long():
		s.leases, s.pods, minutes = 10000, 10000, 60 // an hour
		o.memTable = 16 << 20
		o.CompactionWindow = 2 * time.Second
	case testing.Short():
		minutes = 10
	}
	s.db = openTest(t, o)
	var peak, peakLive int64
	s.run(minutes, func(int) {
		peak, peakLive = max(peak, blockBytes(s.db.opts.Dir)), max(peakLive, s.db.liveBytes())
	})
	writtenTables := int64(s.db.stats.bytes.Load())
	t.Logf("written %d MiB, of it to disk %d MiB; live at most %d MiB, now %d MiB; on disk at most %d MiB",
		s.written.Load()>>20, writtenTables>>20, peakLive>>20, s.db.liveBytes()>>20, peak>>20)
	if bound := 8*peakLive + 40*o.memTable; peak > bound {
		t.Errorf("at most %d bytes on disk while writing, want %d", peak, bound)
	}
	// Nothing is written any more; the history ends, and what it held goes.
	waitFor(t, "events have ended and history is compacted", func() bool {
		s.db.mu.RLock()
		defer s.db.mu.RUnlock()
		return len(s.db.index.expiry) == 0 && len(s.db.index.garbage) == 0 && s.db.index.tree.Len() <= s.leases+s.pods
	})
	waitFor(t, "the disk holds little more than the live data", func() bool { return blockBytes(s.db.opts.Dir) <= diskBound(s.db) })
	t.Logf("at rest %d KiB on disk for %d KiB live, after %d compactions of all tables",
		blockBytes(s.db.opts.Dir)>>10, s.db.liveBytes()>>10, s.db.stats.shrinkings.Load())
	s.checkIndex()
}

// TestShrink deletes most of what it wrote. The deletions are small and in the newest log, so that Badger by itself would
// never come to drop the data.
func TestShrink(t *testing.T) {
	o := Options{memTable: 1 << 20, CompactionWindow: 50 * time.Millisecond, MinFreeBytes: -1}
	db := openTest(t, o)
	const n, size = 300, 100_000
	key := func(i int) string { return fmt.Sprintf("/registry/things/%03d", i) }
	for i := range n {
		put(t, db, key(i), key(i)+strings.Repeat("x", size))
	}
	full := blockBytes(db.opts.Dir)
	if full < n*size {
		t.Fatalf("%d bytes on disk, want at least %d", full, n*size)
	}
	for i := range n {
		if i%30 != 0 {
			remove(t, db, key(i))
		}
	}
	waitFor(t, "history is compacted", func() bool {
		db.mu.RLock()
		defer db.mu.RUnlock()
		return db.index.tree.Len() == n/30
	})
	waitFor(t, "the disk holds little more than the live data", func() bool { return blockBytes(db.opts.Dir) <= diskBound(db) })
	t.Logf("%d KiB on disk, then %d KiB for %d KiB live", full>>10, blockBytes(db.opts.Dir)>>10, db.liveBytes()>>10)
	if err := db.Close(); err != nil { // it waits for a shrinking
		t.Fatal(err)
	}
	o.Dir = db.opts.Dir
	if r, err := Check(t.Context(), CheckOptions{Dir: o.Dir, memTable: o.memTable}); err != nil || !r.Whole() || r.Objects != n/30 {
		t.Errorf("the check says %+v, %v", r, err)
	}
	db = openTest(t, o)
	for i := 0; i < n; i += 30 {
		is(t, db, key(i), key(i)+strings.Repeat("x", size))
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	if got, want := db.index.bytes, int64(n/30*recordBytes(key(0), len(key(0))+size)); got != want {
		t.Errorf("%d live bytes counted, want %d", got, want)
	}
}

// checkIndex wants nothing in memory but one version of each object.
func (s *simulated) checkIndex() {
	db := s.db
	db.mu.RLock()
	defer db.mu.RUnlock()
	keys, versions := 0, 0
	db.index.ascend("", "", func(e *entry) bool {
		keys++
		versions += cap(e.versions)
		return true
	})
	if most := s.leases + s.pods; keys > most || versions > 2*minVersions*most {
		s.t.Errorf("the index has %d keys with room for %d versions, want at most %d keys", keys, versions, most)
	}
	if n := cap(db.index.expiry); n > 8*s.pods {
		s.t.Errorf("room for %d ends, want at most %d", n, 8*s.pods)
	}
	db.batch.mu.RLock()
	defer db.batch.mu.RUnlock()
	if n := len(db.batch.records); n > s.leases {
		s.t.Errorf("%d batched versions, want at most %d", n, s.leases)
	}
}
