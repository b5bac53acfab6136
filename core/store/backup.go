package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// Object is the current version of one key, as backups have it.
type Object struct {
	// Key is the whole key, such as /registry/pods/default/web.
	Key string
	// Value is what the encryption configuration made of the encoded object.
	Value []byte
	// Create is the revision at which the object began, Mod that of this version.
	Create, Mod uint64
	// Version counts the object's versions from 1; 0 where that is not known (this
	// store does not count them).
	Version uint64
	// Expires is the Unix second at which the object ends, 0 for never.
	Expires int64
}

// Snapshot is all that a DB holds at one revision. Writes go on meanwhile. It holds
// back Close until it is closed itself, and ends with an error when the DB closes.
type Snapshot struct {
	db   *DB
	txn  *badger.Txn
	rev  uint64
	refs []Object // without values, but of those that were not on disk
}

// Snapshot takes what there is now. The caller closes it.
func (db *DB) Snapshot() (*Snapshot, error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed.Load() {
		return nil, ErrClosed
	}
	// A transaction sees what was committed before it began. Records up to db.rev are,
	// and what compaction drops later it still sees.
	s := &Snapshot{db: db, txn: db.badger.NewTransaction(false), rev: db.rev}
	db.index.ascend("", "", func(e *entry) bool {
		if v := e.latest(); v != nil {
			o := Object{Key: e.key, Create: v.create, Mod: v.rev, Expires: v.expires}
			if db.batch.only(v.rev) { // the transaction does not see it, and memory may forget it
				o.Value, _ = db.batch.value(v.rev)
			}
			s.refs = append(s.refs, o)
		}
		return true
	})
	db.wg.Add(1) // until Close
	return s, nil
}

// Revision is the one revision that the snapshot is of.
func (s *Snapshot) Revision() uint64 { return s.rev }

// Len is the number of objects.
func (s *Snapshot) Len() int { return len(s.refs) }

// Each calls f for all objects in order of their keys, until f fails. What f gets
// is its own.
func (s *Snapshot) Each(ctx context.Context, f func(*Object) error) error {
	for i := range s.refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.db.ctx.Err() != nil {
			return ErrClosed
		}
		o := s.refs[i]
		if o.Value != nil {
			o.Value = slices.Clone(o.Value)
			if err := f(&o); err != nil {
				return err
			}
			continue
		}
		value, err := s.db.readValue(s.txn, o.Key, o.Mod)
		if errors.Is(err, errCompacted) {
			err = s.db.missing(o.Key, o.Mod)
		}
		if err != nil {
			return fmt.Errorf("snapshot at revision %d: %w", s.rev, err)
		}
		o.Value = value
		if err := f(&o); err != nil {
			return err
		}
	}
	return nil
}

// Close gives the snapshot back. Closing twice is no error.
func (s *Snapshot) Close() {
	if s.txn == nil {
		return
	}
	s.txn.Discard()
	s.txn = nil
	s.db.wg.Done()
}

// Dump calls begin with the revision that is dumped, then each for all objects in order
// of their keys. Writes go on meanwhile.
func (db *DB) Dump(ctx context.Context, begin func(rev uint64) error, each func(*Object) error) error {
	s, err := db.Snapshot()
	if err != nil {
		return err
	}
	defer s.Close()
	if err := begin(s.Revision()); err != nil {
		return err
	}
	return s.Each(ctx, each)
}

// InUse tells whether a process serves the store in dir.
func InUse(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock of store %s: %w", dir, err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &LockedError{Dir: dir, PID: readPID(f)}
	}
	return nil
}
