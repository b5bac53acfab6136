package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger drops a deleted record when the deletion comes down, in compactions, to the table that has the record. A level
// is compacted when it has a tenth of the size of the next, and deletions are small: after many writes the tables kept
// what nobody needs for good, thirty times the live data. So when writes have calmed down, or it has become too much,
// all levels are compacted into one; before that, if need be, the log with the newest deletions is made a table.

const (
	// fillPrefix begins keys of entries that have expired as they are written. They fill a log up, so that Badger makes a
	// table of it, are in no view, and vanish in the next compaction.
	fillPrefix = 'f'
	// shrinkAgain is when a shrinking that left much is tried again though nothing was written since.
	shrinkAgain = time.Hour
	// logWait is how long Badger may take to make a table of a full log.
	logWait = time.Minute
)

// shrinker decides when to shrink. Only the maintainer uses it.
type shrinker struct {
	running chan struct{} // closed when the last shrinking ended; nil: none yet
	written uint64        // bytes ever committed, at the last look
	left    int64         // what the last shrinking left beyond the live data
	at      time.Time     // of the last shrinking
}

// tableSize is the size of all tables.
func (db *DB) tableSize() (n int64) {
	for _, t := range db.badger.Tables() {
		n += int64(t.OnDiskSize)
	}
	return n
}

// liveBytes is what the records that are kept take in tables, from above.
func (db *DB) liveBytes() int64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.index.bytes
}

// slack is what tables may have beyond twice the live data.
func (o *Options) slack() int64 { return 2 * o.memTable }

// shrink begins a shrinking if it is worth it.
func (db *DB) shrink(now time.Time) {
	s := &db.shrinker
	written := db.stats.bytes.Load()
	since := written - s.written
	s.written = written
	if since == 0 && now.Sub(s.at) < shrinkAgain {
		return // as at the last look
	}
	if s.running != nil {
		select {
		case <-s.running:
		default:
			return
		}
	}
	live, size := db.liveBytes(), db.tableSize()
	garbage := size - live
	calm := since < uint64(db.opts.memTable)/4
	switch {
	case garbage <= live+db.opts.slack():
		return
	case !calm && garbage <= 3*live+4*db.opts.slack():
		return
	case garbage <= s.left+db.opts.slack() && now.Sub(s.at) < shrinkAgain:
		return // something holds it, such as a snapshot
	}
	if lacks, _, err := db.opts.lacks(2 * db.opts.tableBytes()); lacks || err != nil {
		return
	}
	s.at = now
	s.running = make(chan struct{})
	go func() { // Close waits for it
		defer close(s.running)
		if err := db.shrinkNow(db.ctx); err != nil && db.ctx.Err() == nil {
			db.log.Warn("Store was not shrunk", "err", err)
		}
		s.left = max(db.tableSize()-db.liveBytes(), 0)
		db.log.Info("Store was shrunk", "live", live, "before", size, "after", db.tableSize(), "took", time.Since(now))
	}()
}

// shrinkNow compacts all levels into one; if much is left, also what the write-ahead log says.
func (db *DB) shrinkNow(ctx context.Context) error {
	if err := db.flatten(); err != nil || db.tableSize() <= 2*db.liveBytes()+db.opts.slack() {
		return err
	}
	// What is left waits for deletions that are in the log only.
	before := len(db.badger.Tables())
	if err := db.fillLog(ctx); err != nil {
		return err
	}
	// Badger makes the table by itself, soon.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(logWait); len(db.badger.Tables()) == before && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return db.flatten()
}

func (db *DB) flatten() error {
	db.stats.shrinkings.Add(1)
	shrinkingsTotal.Inc()
	if err := db.badger.Flatten(1); err != nil {
		return fmt.Errorf("compact all tables: %w", err)
	}
	return nil
}

// fillLog writes as much as a log takes, and once more, as Badger looks before each write whether the log is full.
func (db *DB) fillLog(ctx context.Context) error {
	chunk := db.opts.groupBytes() / 4
	for n := int64(0); n <= db.opts.memTable; n += int64(chunk) {
		if err := db.submit(ctx, &op{kind: opFill, key: "the log", value: make([]byte, chunk), expires: n}); err != nil {
			return fmt.Errorf("fill the write-ahead log: %w", err)
		}
	}
	return nil
}

// addFill adds a piece that fills the log.
func (g *group) addFill(o *op) error {
	if o.err = errors.Join(g.stuck, g.full); o.err != nil {
		return nil
	}
	key := binary.BigEndian.AppendUint32([]byte{fillPrefix}, uint32(o.expires))
	g.wrote = true
	g.bytes += len(o.value)
	return g.txn.SetEntry(&badger.Entry{Key: key, Value: o.value, ExpiresAt: 1})
}
