package store

import (
	"strings"
	"sync"
)

// reserveAhead is how many revisions are noted on disk as given before they are,
// while updates are batched: so many revisions may be left out after a crash, and
// so seldom does a batched update have to wait for the disk.
const reserveAhead = 1000

// reserveFull is the same while the disk is full, so that heartbeats go on in memory for long.
const reserveFull = 100 * reserveAhead

// What is batched is held in memory until it is compacted. Leases of nodes take some
// hundred bytes; what is larger, or too much, is written as any other object.
const (
	batchedValueBytes = 8 << 10
	batchedBytes      = 32 << 20
)

// batch holds updates that were acknowledged and are not on disk yet: those of
// Options.Batched. A later one of the same key takes the place of an earlier
// one, which then never gets to disk; it stays here for watches and reads at its
// revision until it is compacted.
//
// Only the writer changes it.
type batch struct {
	mu      sync.RWMutex             // guards all
	records map[uint64]batchedRecord // by revision
	current map[string]uint64        // key -> revision of its current version, if that is not on disk
	bytes   int                      // of the records' keys and values
}

// batchedRecord stays when it has been saved, until it is compacted: a reader
// may look at the disk as it was before.
type batchedRecord struct {
	*record
	saved bool
}

func newBatch() *batch {
	return &batch{records: map[uint64]batchedRecord{}, current: map[string]uint64{}}
}

// value gives the stored bytes of a version that is or was batched.
func (b *batch) value(rev uint64) ([]byte, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	r, found := b.records[rev]
	if !found {
		return nil, false
	}
	return append([]byte{}, r.value...), true
}

// unsaved gives the current version of a key, nil if that is on disk.
func (b *batch) unsaved(key string) *record {
	b.mu.RLock()
	defer b.mu.RUnlock()
	rev, found := b.current[key]
	if !found {
		return nil
	}
	return b.records[rev].record
}

// only says whether a version is here and not on disk.
func (b *batch) only(rev uint64) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	r, found := b.records[rev]
	return found && !r.saved
}

// keys are those whose current version is not on disk.
func (b *batch) keys() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	all := make([]string, 0, len(b.current))
	for key := range b.current {
		all = append(all, key)
	}
	return all
}

func (b *batch) empty() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.current) == 0
}

// size is how many bytes it holds.
func (b *batch) size() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bytes
}

// full says that it holds as much as it may.
func (b *batch) full() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bytes > batchedBytes
}

// put takes a version in; one of the same key before it is superseded.
func (b *batch) put(r *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[r.rev] = batchedRecord{record: r}
	b.bytes += len(r.key) + len(r.value)
	b.current[r.key] = r.rev
}

// supersede notes that a version of the key that is on disk is the current one.
func (b *batch) supersede(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.current, key)
}

// save notes that a version is on disk now.
func (b *batch) save(r *record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[r.rev] = batchedRecord{record: r, saved: true}
	if b.current[r.key] == r.rev {
		delete(b.current, r.key)
	}
}

// drop forgets a version that is compacted.
func (b *batch) drop(key string, rev uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, found := b.records[rev]; found {
		b.bytes -= len(r.key) + len(r.value)
		delete(b.records, rev)
	}
	if b.current[key] == rev {
		delete(b.current, key)
	}
}

// batched says whether a request may be answered before it is on disk: an update
// of an object that is there, of a kind that is written anew all the time.
func (db *DB) batched(o *op) bool {
	if o.kind != opPut || o.expect == 0 || o.expires != 0 || db.opts.BatchInterval < 0 || len(o.value) > batchedValueBytes {
		return false
	}
	for _, prefix := range db.opts.Batched {
		if strings.HasPrefix(o.key, prefix) {
			return !db.batch.full()
		}
	}
	return false
}

// flush asks the writer to put on disk what is batched, as much as fits in one
// group at a time.
func (db *DB) flush() error {
	for !db.batch.empty() {
		before := len(db.batch.keys())
		if err := db.submit(db.ctx, &op{kind: opFlush, key: "batched updates"}); err != nil {
			return err
		}
		if len(db.batch.keys()) >= before {
			return nil // the disk is full, or as many came meanwhile
		}
	}
	return nil
}

// addFlush adds current versions that are not on disk to the group.
func (g *group) addFlush() error {
	if g.full != nil {
		return nil
	}
	size := 0
	for _, key := range g.db.batch.keys() {
		r := g.db.batch.unsaved(key)
		if r == nil || g.saves(r.rev) {
			continue
		}
		if size += len(r.value) + len(r.key) + entryOverhead; size > g.db.opts.groupBytes()/2 {
			return nil
		}
		if err := g.save(r); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) saves(rev uint64) bool {
	for _, r := range g.saved {
		if r.rev == rev {
			return true
		}
	}
	return false
}

// saveCurrent puts the current version of a key on disk with this group, if it
// is not there: what is written about the key after it builds on it.
func (g *group) saveCurrent(key string) error {
	if i, ok := g.current[key]; ok {
		c := &g.changes[i]
		if !c.batched {
			return nil
		}
		c.batched = false
		_, err := g.write(&c.record)
		return err
	}
	r := g.db.batch.unsaved(key)
	if r == nil || g.saves(r.rev) {
		return nil
	}
	return g.save(r)
}

// save writes a batched version of an earlier group.
func (g *group) save(r *record) error {
	if _, err := g.write(r); err != nil {
		return err
	}
	g.saved = append(g.saved, r)
	return nil
}

// durable says whether the group has to reach the disk before it is answered.
func (g *group) durable() bool {
	return g.wrote || len(g.compact) > 0 || g.state.last > g.db.reserved || g.final && g.state.last != g.db.reserved
}

// reserve gives the counters to write: their last revision runs ahead while
// updates are batched, so that none that anybody saw is given again after a crash.
func (g *group) reserve() state {
	s := g.state
	batching := !g.db.batch.empty()
	for i := range g.changes {
		batching = batching || g.changes[i].batched
	}
	if batching && !g.final {
		s.last = max(g.db.reserved, s.last)
		if s.last < g.state.last+reserveAhead/2 {
			s.last = g.state.last + reserveAhead
			if g.full != nil {
				s.last = g.state.last + reserveFull
			}
		}
	} else if !g.final {
		s.last = max(g.db.reserved, s.last)
	}
	return s
}

// applyBatch brings the batch up to date with a group that is done.
func (g *group) applyBatch() {
	b := g.db.batch
	for _, r := range g.saved {
		b.save(r)
	}
	for i := range g.changes {
		if c := &g.changes[i]; c.batched {
			r := c.record // not the whole group's changes
			b.put(&r)
		} else {
			b.supersede(c.record.key)
		}
	}
	for _, o := range g.compact {
		for _, d := range o.garbage {
			b.drop(d.key, d.rev)
		}
	}
}
