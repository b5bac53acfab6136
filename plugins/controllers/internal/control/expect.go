package control

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// expectationsTimeout is when expectations that no event has met are given up:
// the watch has lost something, and the cache is right again by then.
const expectationsTimeout = 5 * time.Minute

// Expectations remember what a controller has created and deleted and not yet
// seen in its cache, so that it does not do it twice. The zero value works.
type Expectations struct {
	mu    sync.Mutex
	items map[string]*expectation // guarded by mu
}

type expectation struct {
	creates int
	deletes map[types.UID]struct{}
	since   time.Time
}

// Satisfied tells whether all that was expected under key has been seen, or is
// overdue.
func (e *Expectations) Satisfied(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.items[key]
	return x == nil || (x.creates <= 0 && len(x.deletes) == 0) || time.Since(x.since) > expectationsTimeout
}

// Expect replaces what is expected under key: a number of creations, and the
// deletion of the objects with the given UIDs.
func (e *Expectations) Expect(key string, creates int, deletes ...types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.items == nil {
		e.items = map[string]*expectation{}
	}
	x := &expectation{creates: creates, deletes: make(map[types.UID]struct{}, len(deletes)), since: time.Now()}
	for _, uid := range deletes {
		x.deletes[uid] = struct{}{}
	}
	e.items[key] = x
}

// Created takes n creations off, seen or failed.
func (e *Expectations) Created(key string, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.items[key]; x != nil {
		x.creates -= n
	}
}

// Deleted takes one deletion off, seen or failed. It may be repeated.
func (e *Expectations) Deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.items[key]; x != nil {
		delete(x.deletes, uid)
	}
}

// Forget drops key.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.items, key)
}
