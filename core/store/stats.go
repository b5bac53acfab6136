package store

import (
	"fmt"
	"sync/atomic"
	"time"
)

// slowCommit is how long a commit may take before the store tells that its disk is too slow to serve.
const slowCommit = 10 * time.Second

// stats are counted by the writer and by shrinking, and read by whoever wants.
type stats struct {
	bytes      atomic.Uint64 // written by all commits
	shrinkings atomic.Uint64
	begun      atomic.Int64 // when the commit that runs was begun, in nanoseconds of Unix time; 0: none runs
}

// begin notes that a commit begins.
func (s *stats) begin(now time.Time) { s.begun.Store(now.UnixNano()) }

// end notes one commit.
func (s *stats) end(changes, bytes, dropped int, took time.Duration, err error) {
	s.begun.Store(0)
	s.bytes.Add(uint64(bytes))
	commitSeconds.Observe(took.Seconds())
	commitChanges.Observe(float64(changes))
	writtenBytes.Add(float64(bytes))
	if dropped > 0 {
		compactions.Inc()
		compactedTotal.Add(float64(dropped))
	}
	if err != nil {
		commitFailures.Inc()
	}
}

func (s *stats) slow(now time.Time) error {
	begun := s.begun.Load()
	if begun == 0 {
		return nil
	}
	if took := now.Sub(time.Unix(0, begun)); took >= slowCommit {
		return fmt.Errorf("the disk is slow: a commit has taken %s so far", took.Round(time.Second))
	}
	return nil
}

// SlowDisk tells that a commit has waited for the disk for more than 10 seconds and still does. It costs nothing: only
// commits that are made anyway are looked at.
func (db *DB) SlowDisk() error { return db.stats.slow(time.Now()) }
