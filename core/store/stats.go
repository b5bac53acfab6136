package store

import (
	"sync/atomic"
	"time"
)

// stats are counted by the writer and by shrinking, and read by whoever wants.
type stats struct {
	commits    atomic.Uint64
	changes    atomic.Uint64 // in these commits
	bytes      atomic.Uint64 // written by these commits
	shrinkings atomic.Uint64
}

// commit notes one commit.
func (s *stats) commit(changes, bytes int, _ time.Duration) {
	s.commits.Add(1)
	s.changes.Add(uint64(changes))
	s.bytes.Add(uint64(bytes))
}
