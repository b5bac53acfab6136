package store

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	// bookmarkTick is how often watches are asked whether a bookmark is due.
	bookmarkTick = time.Second
	// compactSteps is into how many steps the compaction window is divided: history is kept for between one window
	// and one window and a step.
	compactSteps = 5
	// compactChunk is how many records one group drops.
	compactChunk = 2000
	// valueLogInterval is how often Badger's value log is looked at. Nothing is written to it (pieceBytes), so that
	// is a precaution.
	valueLogInterval = time.Hour
)

// moment remembers which revision was current when.
type moment struct {
	at  time.Time
	rev uint64
}

// maintain is the maintainer: objects that reached their end, compaction, bookmarks.
func (db *DB) maintain() {
	ticker := time.NewTicker(min(bookmarkTick, db.opts.BookmarkInterval))
	defer ticker.Stop()
	compact := time.NewTicker(max(db.opts.CompactionWindow/compactSteps, time.Millisecond))
	defer compact.Stop()
	valueLog := time.NewTicker(valueLogInterval)
	defer valueLog.Stop()
	expiry := time.NewTimer(db.untilExpiry())
	defer expiry.Stop()
	flush := time.NewTicker(max(db.opts.BatchInterval, time.Millisecond))
	defer flush.Stop()
	if db.opts.BatchInterval < 0 {
		flush.Stop()
	}
	moments := []moment{{at: time.Now(), rev: db.Revision()}}
	for {
		select {
		case <-db.ctx.Done():
			return
		case now := <-ticker.C:
			db.bookmarks(now)
			db.cache.tick(now)
		case <-expiry.C:
			db.expire(db.ctx)
			expiry.Reset(db.untilExpiry())
		case <-db.wake:
			expiry.Reset(db.untilExpiry())
		case now := <-compact.C:
			moments = db.compactOld(moments, now)
			db.shrink(now)
		case <-flush.C:
			if err := db.flush(); err != nil && !errors.Is(err, ErrClosed) && db.ctx.Err() == nil {
				db.log.Warn("Batched updates were not put on disk", "err", err)
			}
		case <-valueLog.C:
			switch err := db.badger.RunValueLogGC(0.5); {
			case err == nil:
				valueLogTotal.Inc()
			case !errors.Is(err, badger.ErrNoRewrite) && !errors.Is(err, badger.ErrRejected):
				db.log.Warn("Value log was not collected", "err", err)
			}
		}
	}
}

func (db *DB) bookmarks(now time.Time) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	for _, s := range db.storages {
		s.mu.Lock()
		s.watchers.each(func(w *watcher) { w.mark(now, db.rev, false) })
		s.mu.Unlock()
	}
}

// compactOld compacts to the newest revision that is a window old, and returns the moments still of use.
func (db *DB) compactOld(moments []moment, now time.Time) []moment {
	moments = append(moments, moment{at: now, rev: db.Revision()})
	old := 0
	for old+1 < len(moments) && now.Sub(moments[old+1].at) >= db.opts.CompactionWindow {
		old++
	}
	if now.Sub(moments[old].at) < db.opts.CompactionWindow {
		return moments
	}
	if err := db.Compact(db.ctx, moments[old].rev); err != nil && !errors.Is(err, ErrClosed) && db.ctx.Err() == nil {
		db.log.Warn("History was not compacted", "revision", moments[old].rev, "err", err)
	}
	return moments[old:]
}

// Compact drops all history up to rev, that is all versions that were superseded by then. Reading or watching from
// before rev gets "410 Expired" afterwards. The DB does it by itself as time goes by.
func (db *DB) Compact(ctx context.Context, rev uint64) error {
	first := true
	chunkLen := min(compactChunk, db.opts.groupBytes()/entryOverhead/2)
	for {
		db.mu.Lock()
		if rev > db.rev || rev < db.compact || first && rev == db.compact {
			db.mu.Unlock()
			return nil
		}
		n := 0
		for n < len(db.index.garbage) && n < chunkLen && db.index.garbage[n].at <= rev {
			n++
		}
		chunk := db.index.garbage[:n:n]
		db.index.garbage = db.index.garbage[n:]
		db.mu.Unlock()
		if !first && n == 0 {
			return nil
		}
		first = false
		if err := db.submit(ctx, &op{kind: opCompact, key: "history", expect: rev, garbage: chunk}); err != nil {
			db.mu.Lock()
			db.index.garbage = append(chunk, db.index.garbage...) // for the next time
			db.mu.Unlock()
			return err
		}
	}
}

// untilExpiry returns the time until the next object ends.
func (db *DB) untilExpiry() time.Duration {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if len(db.index.expiry) == 0 {
		return time.Hour
	}
	return max(time.Until(time.Unix(db.index.expiry[0].at, 0)), 0)
}

// expire deletes the objects that reached their end, unless they were written again.
func (db *DB) expire(ctx context.Context) {
	now := time.Now().Unix()
	var due []expiring
	db.mu.Lock()
	for len(db.index.expiry) > 0 && db.index.expiry[0].at <= now && len(due) < groupOps/2 {
		e := heap.Pop(&db.index.expiry).(expiring)
		if cur := db.index.get(e.key); cur != nil && cur.latest() != nil && cur.latest().rev == e.rev {
			due = append(due, e)
		}
	}
	db.mu.Unlock()
	ops := make([]*op, 0, len(due))
	for _, e := range due {
		o := &op{kind: opDelete, key: e.key, expect: e.rev, done: make(chan struct{})}
		select {
		case db.ops <- o:
			ops = append(ops, o)
		case <-ctx.Done():
			return
		}
	}
	for _, o := range ops {
		select {
		case <-o.done:
		case <-db.writerDone:
			return
		}
		if o.err != nil && !errors.Is(o.err, errConflict) && !errors.Is(o.err, ErrClosed) {
			db.log.Warn("Object was not deleted at its end", "key", o.key, "err", o.err)
		}
	}
}
