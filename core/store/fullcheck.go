package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// maxProblems bounds the problems that a Report lists; Report.More counts the rest.
const maxProblems = 100

// ErrNotRead is what CheckOptions.Value returns for a value that it has no keys to read.
var ErrNotRead = errors.New("value was not read")

// CheckOptions say what is checked, and how.
type CheckOptions struct {
	// Dir is the data directory; no process may serve it.
	Dir string
	// Value looks at the stored bytes of one version of an object; its error is a problem. Nil: values are only compared
	// with their checksums.
	Value func(ctx context.Context, key string, value []byte) error

	memTable int64
}

// Report is what a check found.
type Report struct {
	// Revision is the last one in the store, CompactRevision the one up to which history is compacted, Acknowledged the
	// one that the file HEAD names.
	Revision, CompactRevision, Acknowledged uint64
	// Tables were compared with their checksums, all of them.
	Tables int
	// Records are all versions of all objects and all deletions. Objects are those that exist, Superseded their earlier
	// versions, Deletions what tells of objects that are gone. What is not an object goes at the next compactions.
	Records, Objects, Superseded, Deletions int
	// Bytes are those of all values, NotRead the values that Value had no keys for.
	Bytes   int64
	NotRead int
	// Problems are what is wrong, at most 100; More counts the others.
	Problems []Problem
	More     int
}

// Problem is one thing that is wrong.
type Problem struct {
	// Where is a file, or a key and a revision.
	Where string
	// What was found.
	What string
}

// Whole tells whether nothing is wrong.
func (r *Report) Whole() bool { return len(r.Problems) == 0 }

func (r *Report) add(where, format string, args ...any) {
	if len(r.Problems) == maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// checking is one run of Check.
type checking struct {
	CheckOptions
	report *Report
	db     *DB               // of the copy
	pieces map[uint64]uint16 // how many pieces each record has, if any
}

// Check reads all of a store that is not served, and compares it with itself: checksums of tables and records, their
// order, the counters, HEAD, and what lookups find. It works on a copy within the directory, which is removed again,
// and changes nothing else. An error says that it could not check, ErrLocked that a process
// serves the store; what is wrong with the store is in the report.
func Check(ctx context.Context, o CheckOptions) (_ *Report, err error) {
	if info, err := os.Stat(o.Dir); err != nil {
		return nil, fmt.Errorf("check store: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("check store %s: not a directory", o.Dir)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "badger")); err != nil {
		if _, head := os.Stat(filepath.Join(o.Dir, headName)); head != nil {
			return nil, fmt.Errorf("check store %s: there is no store: %w", o.Dir, err)
		}
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	opts := Options{Dir: filepath.Join(o.Dir, shadowName), memTable: o.memTable, CacheBytes: -1}
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	if err := makeShadow(o.Dir, opts.tableBytes()); err != nil {
		return nil, errors.Join(err, removeShadow(o.Dir))
	}
	c := &checking{CheckOptions: o, report: &Report{}, pieces: map[uint64]uint16{}}
	c.db = &DB{opts: opts, log: opts.Log, index: newIndex(), batch: newBatch(), guard: newGuard()}
	err = c.run(ctx)
	return c.report, errors.Join(err, c.db.closeFiles(), removeShadow(o.Dir))
}

// run returns an error only if it cannot go on for a reason that is not the store's.
func (c *checking) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.files, c.open, c.scan, c.load, c.lookups} {
		err := step(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d, isDamaged := errors.AsType[*DamagedError](err)
		switch {
		case isDamaged:
			problem := d.Problem
			if d.Err != nil {
				problem += ": " + c.original(firstLine(d.Err))
			}
			c.report.add(c.original(d.File), "%s", problem)
			return nil
		case err != nil:
			return err
		case !c.report.Whole(): // what follows would find the same again
			return nil
		}
	}
	return nil
}

// original names a file of the copy as that of the store.
func (c *checking) original(s string) string { return strings.ReplaceAll(s, c.db.opts.Dir, c.Dir) }

// files looks at HEAD, the manifest, and at all tables that it names.
func (c *checking) files(context.Context) error {
	var err error
	if c.db.head, _, err = openHead(c.db.opts.Dir); err != nil {
		return err
	}
	c.report.Acknowledged = c.db.head.last
	dir := filepath.Join(c.db.opts.Dir, "badger")
	return eachTable(dir, badgerOptions(&c.db.opts, dir, c.db.guard), c.db.head.last > 0, func(path string) error {
		c.report.Tables++
		err := checkTable(path)
		if d, ok := errors.AsType[*DamagedError](err); ok {
			c.report.add(c.original(d.File), "%s: %s", d.Problem, firstLine(d.Err))
			return nil // look at the others too
		}
		return err
	})
}

func (c *checking) open(context.Context) error {
	dir := filepath.Join(c.db.opts.Dir, "badger")
	var err error
	c.db.badger, err = openBadger(badgerOptions(&c.db.opts, dir, c.db.guard).WithSyncWrites(false), c.db.guard)
	return err
}

// scan reads all entries in the order of their keys.
func (c *checking) scan(ctx context.Context) error {
	return c.db.badger.View(func(txn *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.PrefetchSize = 16
		it := txn.NewIterator(o)
		defer it.Close()
		var got state
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			c.entry(ctx, txn, it.Item(), &got)
		}
		c.counters(txn, &got)
		return nil
	})
}

func (c *checking) entry(ctx context.Context, txn *badger.Txn, item *badger.Item, got *state) {
	key := item.Key()
	where := fmt.Sprintf("entry %x", key)
	switch {
	case len(key) == 9 && key[0] == recordPrefix:
		rev := binary.BigEndian.Uint64(key[1:])
		err := item.Value(func(b []byte) error {
			r, sum, err := decodeRecord(rev, b, pieceReader(txn, rev))
			if err != nil {
				return err
			}
			got.add(rev, sum)
			got.last = max(got.last, rev)
			c.record(ctx, r)
			c.db.index.apply(r, sum)
			return nil
		})
		if err != nil {
			c.report.add(fmt.Sprintf("revision %d", rev), "%v", err)
		}
	case len(key) == 11 && key[0] == piecePrefix: // after all records
		rev, n := binary.BigEndian.Uint64(key[1:9]), binary.BigEndian.Uint16(key[9:])
		if n >= c.pieces[rev] {
			c.report.add(where, "piece %d of revision %d belongs to no record", n, rev)
		}
	case len(key) == 1 && key[0] == statePrefix:
	default:
		c.report.add(where, "it is none of the store's")
	}
}

// record compares a record with what came before it of the same key, and its value with what it should be.
func (c *checking) record(ctx context.Context, r *record) {
	where := fmt.Sprintf("%s at revision %d", r.key, r.rev)
	c.report.Records++
	c.report.Bytes += int64(len(r.value))
	if n := pieceCount(len(r.value)); n > 0 {
		c.pieces[r.rev] = uint16(n)
	}
	var before *version
	if e := c.db.index.get(r.key); e != nil {
		before = e.latest()
	}
	switch {
	case r.create == 0 || r.create > r.rev:
		c.report.add(where, "its object began at revision %d", r.create)
	case r.prev >= r.rev:
		c.report.add(where, "it follows revision %d", r.prev)
	case before != nil && (r.prev < before.rev || r.create != before.create):
		c.report.add(where, "it follows revision %d of an object begun at %d; the version before is %d of one begun at %d",
			r.prev, r.create, before.rev, before.create)
	}
	if r.kind == recordDelete || c.Value == nil {
		return
	}
	switch err := c.Value(ctx, r.key, r.value); {
	case errors.Is(err, ErrNotRead):
		c.report.NotRead++
	case err != nil:
		c.report.add(where, "value of %d bytes: %v", len(r.value), err)
	}
}

// counters compares the counters with what was read.
func (c *checking) counters(txn *badger.Txn, got *state) {
	const where = "counters"
	item, err := txn.Get([]byte{statePrefix})
	if errors.Is(err, badger.ErrKeyNotFound) {
		if got.count > 0 {
			c.report.add(where, "they are missing")
		}
		return
	}
	var want state
	if err == nil {
		err = item.Value(func(b []byte) error { want, err = decodeState(b); return err })
	}
	if err != nil {
		c.report.add(where, "%v", err)
		return
	}
	c.report.CompactRevision = want.compact
	switch {
	case got.count != want.count:
		c.report.add(where, "%d records found, %d were written", got.count, want.count)
	case got.sum != want.sum:
		c.report.add(where, "the checksum over all %d records differs", got.count)
	}
	if got.last > want.last {
		c.report.add(where, "revision %d is newer than the last one, %d", got.last, want.last)
	}
	if want.compact > want.last {
		c.report.add(where, "compacted up to revision %d, the last one is %d", want.compact, want.last)
	}
}

// load opens the store as the server does.
func (c *checking) load(ctx context.Context) error {
	c.db.index = newIndex()
	if err := c.db.load(ctx); err != nil {
		return err
	}
	c.report.Revision = c.db.rev
	return nil
}

// lookups reads all that the index knows, one by one, as requests do.
func (c *checking) lookups(ctx context.Context) error {
	return c.db.badger.View(func(txn *badger.Txn) error {
		c.db.index.ascend("", "", func(e *entry) bool {
			for i := range e.versions {
				v := &e.versions[i]
				switch {
				case v.dead:
					c.report.Deletions++
				case i == len(e.versions)-1:
					c.report.Objects++
				default:
					c.report.Superseded++
				}
				where := fmt.Sprintf("%s at revision %d", e.key, v.rev)
				value, err := c.db.readValue(txn, e.key, v.rev)
				if err != nil {
					c.report.add(where, "a lookup says: %v", err)
				} else if len(value) != int(v.size) {
					c.report.add(where, "a lookup finds %d bytes, the index has %d", len(value), v.size)
				}
			}
			return ctx.Err() == nil
		})
		if n := c.report.Objects + c.report.Superseded + c.report.Deletions; ctx.Err() == nil && n != c.report.Records {
			c.report.add("index", "it has %d versions, the store %d", n, c.report.Records)
		}
		return ctx.Err()
	})
}
