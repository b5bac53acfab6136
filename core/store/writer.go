package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

type opKind byte

const (
	opPut     opKind = iota // write value if the key is at revision expect
	opDelete                // delete the key if it is at revision expect
	opCompact               // drop garbage and raise the compact revision to expect
	opFlush                 // put batched updates on disk
	opFill                  // fill the write-ahead log up
)

// op is one request to the writer. The writer owns it until done is closed; the fields below done are its answer.
type op struct {
	kind    opKind
	key     string
	expect  uint64 // revision the key has to be at, 0 for a key that must not exist
	value   []byte
	plain   []byte // value before the transformer, so that events need not undo it
	expires int64
	storage *Storage // whose event the caller wants
	garbage []garbage
	trigger triggerValues
	final   bool // of a flush: the DB closes

	done  chan struct{}
	err   error
	rev   uint64 // revision given
	event *event // the change as storage's watchers see it
}

const (
	// groupOps bounds one group; beyond it the gain of one sync is small and the first request waits too long.
	groupOps = 1024
	// entryOverhead is what Badger counts for an entry besides key and value, and what our record adds, generously.
	entryOverhead = 160
)

func (o *op) size() int {
	return len(o.value) + len(o.key) + entryOverhead*(1+pieceCount(len(o.value))) + len(o.garbage)*entryOverhead
}

// submit hands an op to the writer and waits for its answer. If ctx ends first, the op may still be carried out.
func (db *DB) submit(ctx context.Context, o *op) error {
	o.done = make(chan struct{})
	if db.closed.Load() {
		return ErrClosed
	}
	select {
	case db.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.ctx.Done():
		return ErrClosed
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	case <-db.writerDone:
		// The writer finished the group at hand and refused what it did not take. What came after that stays.
		select {
		case <-o.done:
			return o.err
		default:
			return ErrClosed
		}
	}
}

// write is the writer: it takes all requests that wait, commits them with one sync, answers them, and takes those
// that came meanwhile. It is the only one to write to Badger and to change the index.
func (db *DB) write() {
	defer close(db.writerDone)
	defer db.drain()
	defer db.finish()
	var next *op
	for {
		var group []*op
		group, next = db.collect(next)
		if len(group) == 0 {
			return
		}
		db.commit(group)
	}
}

// collect waits for a request and takes what else is there; one that does not fit any more is returned as the next.
func (db *DB) collect(first *op) (group []*op, next *op) {
	if first == nil {
		select {
		case first = <-db.ops:
		case <-db.ctx.Done():
			return nil, nil
		}
	}
	group = append(group, first)
	for size := first.size(); len(group) < groupOps; {
		select {
		case o := <-db.ops:
			if size += o.size(); size > db.opts.groupBytes() {
				return group, o
			}
			group = append(group, o)
		default:
			return group, nil
		}
	}
	return group, nil
}

// finish puts all on disk that was acknowledged, and notes the exact last revision.
func (db *DB) finish() {
	for {
		before := len(db.batch.keys())
		db.commit([]*op{{kind: opFlush, key: "batched updates", final: true, done: make(chan struct{})}})
		if n := len(db.batch.keys()); n == 0 || n >= before {
			return
		}
	}
}

// drain refuses what waits when the DB closes.
func (db *DB) drain() {
	for {
		select {
		case o := <-db.ops:
			o.err = ErrClosed
			close(o.done)
		default:
			return
		}
	}
}

// pending is a change in a group that is not on disk yet.
type pending struct {
	op     *op
	record record
	sum    uint32
	// batched: it is acknowledged before it is on disk.
	batched bool
}

// group is the work on one commit.
type group struct {
	db      *DB
	txn     *badger.Txn
	state   state // becomes the DB's when the group is on disk
	changes []pending
	current map[string]int // key -> its newest change in changes
	compact []*op
	saved   []*record // batched updates of earlier groups that this one puts on disk
	wrote   bool      // something was added to txn
	bytes   int       // of it
	dropped int       // versions that compaction drops
	final   bool      // the last group before the DB closes
	full    error     // not nil: objects may be deleted, but not written
	stuck   error     // not nil: nothing may be written
}

// commit carries out a group. All requests are answered after the sync, refused ones too: a refusal may rest on a
// change of the same group.
func (db *DB) commit(ops []*op) {
	g := &group{db: db, state: db.state, current: make(map[string]int, len(ops)), full: db.diskFull()}
	var err error
	if failed := db.failed.Load(); failed != nil {
		err = *failed
	}
	if err == nil {
		size := int64(entryOverhead)
		for _, o := range ops {
			size += int64(o.size())
		}
		if g.stuck = db.room(size); g.stuck != nil {
			g.full = g.stuck
		}
	}
	if err == nil {
		g.txn = db.badger.NewTransaction(true)
		defer g.txn.Discard()
		err = g.build(ops)
	}
	if errors.Is(err, badger.ErrTxnTooBig) && len(ops) > 1 {
		// Batched versions that the group takes along were not counted as it was collected.
		for _, half := range [][]*op{ops[:len(ops)/2], ops[len(ops)/2:]} {
			for _, o := range half {
				o.err, o.rev = nil, 0
			}
			db.commit(half)
		}
		return
	}
	if err == nil {
		err = g.sync()
	}
	if err == nil {
		g.apply()
	}
	for _, o := range ops {
		if err != nil {
			o.err = err
		}
		close(o.done)
	}
}

func (g *group) build(ops []*op) error {
	for _, o := range ops {
		var err error
		switch o.kind {
		case opCompact:
			if o.err = g.stuck; o.err == nil {
				err = g.addCompact(o)
			}
		case opFill:
			err = g.addFill(o)
		case opFlush:
			g.final = g.final || o.final
			err = g.addFlush()
		default:
			err = g.addChange(o)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", o.key, err)
		}
	}
	return nil
}

func (g *group) addChange(o *op) error {
	cur := g.lookup(o.key)
	if cur.rev != o.expect {
		o.err = errConflict
		return nil
	}
	batched := g.db.batched(o)
	if o.kind == opPut && g.full != nil && !batched {
		o.err = g.full
		return nil
	}
	if g.stuck != nil && !batched {
		o.err = g.stuck
		return nil
	}
	if !batched {
		if err := g.saveCurrent(o.key); err != nil {
			return err
		}
	}
	g.state.last++
	r := record{rev: g.state.last, kind: recordPut, create: cur.create, prev: cur.rev, expires: o.expires, key: o.key, value: o.value}
	if o.kind == opDelete {
		r.kind, r.value, r.expires = recordDelete, nil, 0
	} else if cur.rev == 0 {
		r.create = r.rev
	}
	c := pending{op: o, record: r, batched: batched}
	if batched {
		_, _, c.sum = encodeRecord(&c.record)
	} else {
		var err error
		if c.sum, err = g.write(&c.record); err != nil {
			return err
		}
	}
	o.rev = r.rev
	g.current[o.key] = len(g.changes)
	g.changes = append(g.changes, c)
	return nil
}

// write adds a record to the transaction, and returns its checksum.
func (g *group) write(r *record) (uint32, error) {
	data, pieces, sum := encodeRecord(r)
	if err := g.txn.Set(recordKey(r.rev), data); err != nil {
		return 0, err
	}
	g.bytes += recordBytes(r.key, len(r.value))
	for i, p := range pieces {
		if err := g.txn.Set(pieceKey(r.rev, i), p); err != nil {
			return 0, err
		}
	}
	g.state.add(r.rev, sum)
	g.wrote = true
	return sum, nil
}

// lookup returns a key's current version as this group sees it, the zero value if there is none.
func (g *group) lookup(key string) version {
	if i, ok := g.current[key]; ok {
		r := g.changes[i].record
		if r.kind == recordDelete {
			return version{}
		}
		return version{rev: r.rev, create: r.create}
	}
	if e := g.db.index.get(key); e != nil {
		if v := e.latest(); v != nil {
			return *v
		}
	}
	return version{}
}

func (g *group) addCompact(o *op) error {
	for _, d := range o.garbage {
		v := g.db.index.find(d.key, d.rev)
		if v == nil || g.db.batch.only(d.rev) && !g.saves(d.rev) { // not on disk
			continue
		}
		if err := g.saveCurrent(d.key); err != nil { // what stays of the key has to be on disk before the rest goes
			return err
		}
		if err := g.txn.Delete(recordKey(d.rev)); err != nil {
			return err
		}
		for i := range pieceCount(int(v.size)) {
			if err := g.txn.Delete(pieceKey(d.rev, i)); err != nil {
				return err
			}
		}
		g.state.remove(d.rev, v.sum)
		g.dropped++
		g.bytes += deletionBytes * (1 + pieceCount(int(v.size)))
	}
	g.state.compact = max(g.state.compact, o.expect)
	g.compact = append(g.compact, o)
	return nil
}

// sync puts the group on disk. A commit that fails leaves unknown what is on disk, so it is the last one.
func (g *group) sync() error {
	if !g.durable() {
		return nil
	}
	if g.stuck != nil {
		return g.stuck
	}
	counters := g.reserve()
	err := g.txn.Set([]byte{statePrefix}, counters.encode())
	if err != nil {
		return fmt.Errorf("write counters: %w", err)
	}
	start := time.Now()
	g.db.stats.begin(start)
	if err = g.txn.Commit(); err == nil {
		err = g.db.head.write(g.state.last)
	}
	g.db.stats.end(len(g.changes), g.bytes, g.dropped, time.Since(start), err)
	g.db.reserved = counters.last
	if err != nil {
		err = fmt.Errorf("commit to store %s: %w", g.db.opts.Dir, err)
		g.db.failed.Store(&err)
		g.db.log.Error("Commit failed, nothing more is written until the server restarts", "dir", g.db.opts.Dir, "err", err)
	}
	return err
}

// apply makes the group visible, and hands its events to the watchers, in one step: who takes db.mu sees all events
// up to db.rev queued, and none beyond.
func (g *group) apply() {
	db := g.db
	db.mu.Lock()
	defer db.mu.Unlock()
	db.state = g.state
	expiring := len(db.index.expiry)
	for i := range g.changes {
		c := &g.changes[i]
		db.index.apply(&c.record, c.sum)
		db.publish(c)
	}
	db.wakeWatchers()
	for _, o := range g.compact {
		for _, d := range o.garbage {
			db.index.drop(d.key, d.rev)
		}
	}
	g.applyBatch()
	db.rev, db.compact = g.state.last, g.state.compact
	if len(db.index.expiry) > expiring {
		select {
		case db.wake <- struct{}{}:
		default:
		}
	}
}
