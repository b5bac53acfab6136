package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// firstRevision is the revision of an empty store, as etcd's; the first write gets the one after it.
const firstRevision = 1

// DB is one open data directory.
type DB struct {
	opts   Options
	log    *slog.Logger
	lock   *os.File
	head   *head
	badger *badger.DB
	guard  *guard
	cache  *objectCache

	ops        chan *op        // to the writer
	ctx        context.Context // ends when the DB closes
	cancel     context.CancelFunc
	wg         sync.WaitGroup // writer, maintainer, watches
	writerDone chan struct{}  // closed when the writer has ended
	wake       chan struct{}  // tells the maintainer that an object with an end was written
	closed     atomic.Bool
	failed     atomic.Pointer[error] // the first failed commit; nothing is written after it

	reading sync.RWMutex // held shared while reading files, which must stay mapped meanwhile

	state    state  // owned by the writer
	reserved uint64 // last revision that is noted on disk as given; owned by the writer
	batch    *batch
	wal      *wal
	shrinker shrinker
	stats    stats

	mu       sync.RWMutex // guards all below; only the writer changes rev, compact and the index's tree, so it reads them unlocked
	index    *index
	rev      uint64 // last revision on disk
	compact  uint64 // revision up to which history is compacted
	storages []*Storage
	woken    []*watcher // see wakeWatchers
}

// Open opens the directory, making it if it is missing, and verifies all that is in it. The error is ErrLocked,
// ErrDamaged, or what the operating system said; Open never changes a directory whose lock it did not get. ctx bounds
// opening only.
func Open(ctx context.Context, o Options) (_ *DB, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Dir, err)
	}
	db := &DB{opts: o, log: o.Log, index: newIndex(), ops: make(chan *op, 1024), wake: make(chan struct{}, 1), writerDone: make(chan struct{})}
	db.cache = newObjectCache(o.CacheBytes)
	db.batch = newBatch()
	defer func() {
		if err != nil {
			db.closeFiles()
		}
	}()
	if db.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	if err := db.openFiles(); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := db.load(ctx); err != nil {
		return nil, err
	}
	if err := db.guard.serve(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", o.Dir, err)
	}
	db.log.Info("Opened store", "dir", o.Dir, "revision", db.rev, "compactRevision", db.compact, "records", db.state.count, "took", time.Since(start))
	db.ctx, db.cancel = context.WithCancel(context.WithoutCancel(ctx))
	db.observe()
	db.wg.Add(2) // both end when db.ctx does
	go func() { defer db.wg.Done(); db.write() }()
	go func() { defer db.wg.Done(); db.maintain() }()
	return db, nil
}

func (db *DB) openFiles() error {
	dir := filepath.Join(db.opts.Dir, "badger")
	var err error
	var fresh bool
	if db.head, fresh, err = openHead(db.opts.Dir); err != nil {
		return err
	}
	db.guard = newGuard()
	bopts := badgerOptions(&db.opts, dir, db.guard)
	if err := checkFiles(dir, bopts, db.head.last > 0); err != nil {
		return err
	}
	if fresh {
		if _, err := os.Stat(filepath.Join(dir, badger.ManifestFilename)); err == nil {
			db.log.Warn("File HEAD was missing, so a loss of the newest writes cannot be ruled out", "dir", db.opts.Dir)
		}
	}
	if err := checkOpenSpace(&db.opts); err != nil {
		return err
	}
	if db.badger, err = openBadger(bopts, db.guard); err != nil {
		return err
	}
	if db.wal, err = openWAL(dir, db.opts.memTable); err != nil {
		return err
	}
	if limit := db.badger.MaxBatchSize(); limit < int64(db.opts.groupBytes())*9/8 {
		return fmt.Errorf("open store %s: a transaction holds %d bytes, less than the largest object", db.opts.Dir, limit)
	}
	return nil
}

// load reads every record, verifies it, and builds the index.
func (db *DB) load(ctx context.Context) error {
	var got, want state
	err := db.badger.View(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte{statePrefix})
		if err == nil {
			err = item.Value(func(b []byte) error { want, err = decodeState(b); return err })
		}
		if errors.Is(err, badger.ErrKeyNotFound) {
			err = nil
		}
		if err != nil {
			return err
		}
		return db.loadRecords(ctx, txn, &got)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	dir := filepath.Join(db.opts.Dir, "badger")
	switch {
	case err != nil:
		return damaged(dir, err, "a record is damaged")
	case want.last < db.head.last:
		return damaged(filepath.Join(dir, "*.mem"), nil, "writes up to revision %d were acknowledged, the newest found is %d: the write-ahead log lost its end", db.head.last, want.last)
	case db.head.torn && want.last == db.head.last:
		// Had the newest entry been torn as it was written, then the data it is about would be there: they are synced before.
		return damaged(db.head.f.Name(), nil, "one of its two entries is not readable, perhaps that of the newest write; revision %d is the newest found. Delete the file to start with that", want.last)
	case got.count != want.count || got.sum != want.sum:
		return damaged(filepath.Join(dir, "*.sst"), nil, "%d records found, %d were written (or their contents differ)", got.count, want.count)
	case got.last > want.last:
		return damaged(dir, nil, "record of revision %d is newer than the last revision %d", got.last, want.last)
	}
	db.state = want
	db.rev, db.compact = max(want.last, firstRevision), want.compact
	db.state.last, db.reserved = db.rev, db.rev
	if db.head.last < want.last { // killed between the sync and the note of it, or the file is new
		if err := db.head.write(want.last); err != nil {
			return err
		}
	}
	if db.head.torn {
		db.log.Warn("File HEAD was damaged, and is mended", "dir", db.opts.Dir)
		if err := db.head.repair(); err != nil {
			return err
		}
	}
	// All is there, so what was set aside was left over. A check that was killed leaves its copy.
	return errors.Join(os.RemoveAll(filepath.Join(db.opts.Dir, asideName)), removeShadow(db.opts.Dir))
}

func (db *DB) loadRecords(ctx context.Context, txn *badger.Txn, got *state) error {
	o := badger.DefaultIteratorOptions
	o.Prefix = []byte{recordPrefix}
	o.PrefetchSize = 16
	it := txn.NewIterator(o)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if len(item.Key()) != 9 {
			return fmt.Errorf("%w: key %x", errRecord, item.Key())
		}
		rev := binary.BigEndian.Uint64(item.Key()[1:])
		err := item.Value(func(b []byte) error {
			r, sum, err := decodeRecord(rev, b, pieceReader(txn, rev))
			if err != nil {
				return fmt.Errorf("revision %d: %w", rev, err)
			}
			db.index.apply(r, sum)
			got.add(rev, sum)
			got.last = rev
			return nil
		})
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func pieceReader(txn *badger.Txn, rev uint64) func(int) ([]byte, error) {
	return func(n int) ([]byte, error) {
		item, err := txn.Get(pieceKey(rev, n))
		if err != nil {
			return nil, err
		}
		return item.ValueCopy(nil)
	}
}

// readValue returns the stored bytes of one version of a key. errCompacted means that it is no longer kept.
func (db *DB) readValue(txn *badger.Txn, key string, rev uint64) ([]byte, error) {
	if value, found := db.batch.value(rev); found {
		return value, nil
	}
	item, err := txn.Get(recordKey(rev))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, errCompacted
	}
	if err != nil {
		return nil, fmt.Errorf("read %s at revision %d: %w", key, rev, err)
	}
	var value []byte
	err = item.Value(func(b []byte) error {
		r, _, err := decodeRecord(rev, b, pieceReader(txn, rev))
		if err != nil {
			return err
		}
		if r.key != key {
			return fmt.Errorf("%w: it belongs to %s", errRecord, r.key)
		}
		value = append([]byte{}, r.value...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s at revision %d: %w", key, rev, err)
	}
	return value, nil
}

// missing is the error for a current version that cannot be read: Badger takes an unreadable block for an absent key.
func (db *DB) missing(key string, rev uint64) error {
	return damaged(filepath.Join(db.opts.Dir, "badger"), nil, "%s at revision %d is not readable any more", key, rev)
}

// view runs f in a read transaction, unless the DB is closed.
func (db *DB) view(f func(*badger.Txn) error) error {
	db.reading.RLock()
	defer db.reading.RUnlock()
	if db.closed.Load() {
		return ErrClosed
	}
	return db.badger.View(f)
}

// Revision returns the last revision that is on disk.
func (db *DB) Revision() uint64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.rev
}

// CompactRevision returns the revision up to which history is compacted, 0 if it never was.
func (db *DB) CompactRevision() uint64 {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.compact
}

// Close ends all watches, commits what was handed in before, and closes the files. Operations begun later get
// ErrClosed. Closing twice is no error.
func (db *DB) Close() error {
	db.mu.Lock() // no watch begins after this
	was := db.closed.Swap(true)
	rev := db.rev
	for _, s := range db.storages {
		s.mu.Lock()
		s.watchers.each((*watcher).wake) // whoever takes events sees that it is over
		s.mu.Unlock()
	}
	db.mu.Unlock()
	if was {
		return nil
	}
	db.forget() // its metrics look at Badger
	db.cancel()
	db.wg.Wait()
	db.reading.Lock()
	defer db.reading.Unlock()
	err := db.closeFiles()
	db.log.Info("Closed store", "dir", db.opts.Dir, "revision", rev)
	return err
}

func (db *DB) closeFiles() error {
	var errs []error
	if db.badger != nil {
		if lacks, free, _ := db.opts.lacks(db.opts.tableBytes()); lacks {
			// Badger would make tables, and there is no room. All is in the write-ahead logs; the next start reads them.
			db.log.Warn("Closed store as it is, the disk is full", "dir", db.opts.Dir, "free", free)
		} else {
			db.guard.leave()
			errs = append(errs, db.guard.run(guardGrace, func() error {
				if db.shrinker.running != nil {
					<-db.shrinker.running
				}
				return db.badger.Close()
			}))
		}
	}
	if db.head != nil {
		errs = append(errs, db.head.sync(), db.head.f.Close())
	}
	err := errors.Join(errs...)
	if db.lock != nil {
		if errors.Is(err, errAbandoned) {
			abandon(db.lock)
		} else {
			err = errors.Join(err, db.lock.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("close store %s: %w", db.opts.Dir, err)
	}
	return nil
}
