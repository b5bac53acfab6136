package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// ErrNotEmpty says that Import was pointed at a directory that holds something.
var ErrNotEmpty = errors.New("directory is not empty")

// importing is the work on one Import.
type importing struct {
	db    *DB
	batch *badger.WriteBatch
	state state
	base  uint64
	used  map[uint64]bool
	last  string   // key before
	next  uint64   // the newest revision given to an object of which another has the revision
	late  []Object // of these
}

// Import makes a new store in o.Dir, which has to be missing or empty, of the objects that
// each hands to its argument, in order of their keys. They keep the revisions they have, which may be base at
// most; an object whose revision another one has gets one of its own above base. The store
// begins at revision last, and all history up to there counts as compacted: who asks
// for an older revision gets "410 Expired". When Import returns nil, the store is on disk,
// was read back and verified. What a failed Import leaves behind is of no use.
func Import(ctx context.Context, o Options, base, last uint64, each func(func(*Object) error) error) error {
	if err := o.setDefaults(); err != nil {
		return err
	}
	if last <= base {
		return fmt.Errorf("import into %s: first revision %d has to be above %d", o.Dir, last, base)
	}
	if files, err := os.ReadDir(o.Dir); err == nil && len(files) > 0 {
		return fmt.Errorf("import into %s: %w", o.Dir, ErrNotEmpty)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("import into %s: %w", o.Dir, err)
	}
	if err := writeImport(ctx, o, base, last, each); err != nil {
		return fmt.Errorf("import into %s: %w", o.Dir, err)
	}
	db, err := Open(ctx, o) // verifies all of it
	if err != nil {
		return err
	}
	return db.Close()
}

func writeImport(ctx context.Context, o Options, base, last uint64, each func(func(*Object) error) error) (err error) {
	db := &DB{opts: o, log: o.Log, guard: newGuard()}
	defer func() { err = errors.Join(err, db.closeFiles()) }()
	if db.lock, err = lockDir(o.Dir); err != nil {
		return err
	}
	if db.head, _, err = openHead(o.Dir); err != nil {
		return err
	}
	// Nothing is worth a sync before all is there: Badger syncs as it closes.
	if db.badger, err = openBadger(badgerOptions(&o, filepath.Join(o.Dir, "badger"), db.guard).WithSyncWrites(false), db.guard); err != nil {
		return err
	}
	if err := db.guard.serve(); err != nil {
		return err
	}
	i := &importing{db: db, batch: db.badger.NewWriteBatch(), base: base, next: base, used: map[uint64]bool{}}
	defer i.batch.Cancel()
	err = each(func(obj *Object) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return i.add(obj)
	})
	if err == nil {
		err = i.addLate()
	}
	if err != nil {
		return err
	}
	if i.next >= last {
		return fmt.Errorf("%d objects need a new revision, which reaches the first free one, %d", len(i.late), last)
	}
	i.state.last, i.state.compact = last, last
	if err := i.batch.Set([]byte{statePrefix}, i.state.encode()); err != nil {
		return err
	}
	if err := i.batch.Flush(); err != nil {
		return err
	}
	if err := db.badger.Sync(); err != nil {
		return err
	}
	return db.head.write(last)
}

func (i *importing) add(o *Object) error {
	if o.Key == "" || o.Mod == 0 || o.Create == 0 || o.Create > o.Mod || o.Mod > i.base {
		return fmt.Errorf("object %q: revisions %d and %d do not fit revision %d", o.Key, o.Create, o.Mod, i.base)
	}
	if o.Key <= i.last {
		return fmt.Errorf("object %q comes after %q: keys have to be in order", o.Key, i.last)
	}
	i.last = o.Key
	if len(o.Value) > maxValueBytes {
		return fmt.Errorf("object %s: %d bytes are more than this store takes (%d)", o.Key, len(o.Value), maxValueBytes)
	}
	if i.used[o.Mod] {
		late := *o
		late.Value = slices.Clone(o.Value)
		i.late = append(i.late, late)
		return nil
	}
	i.used[o.Mod] = true
	return i.put(o)
}

func (i *importing) addLate() error {
	for n := range i.late {
		i.next++
		i.late[n].Mod = i.next
		if err := i.put(&i.late[n]); err != nil {
			return err
		}
	}
	return nil
}

func (i *importing) put(o *Object) error {
	r := record{rev: o.Mod, kind: recordPut, create: o.Create, expires: o.Expires, key: o.Key, value: slices.Clone(o.Value)}
	data, pieces, sum := encodeRecord(&r)
	if err := i.batch.Set(recordKey(r.rev), data); err != nil {
		return fmt.Errorf("object %s: %w", o.Key, err)
	}
	for n, p := range pieces {
		if err := i.batch.Set(pieceKey(r.rev, n), p); err != nil {
			return fmt.Errorf("object %s: %w", o.Key, err)
		}
	}
	i.state.add(r.rev, sum)
	return nil
}
