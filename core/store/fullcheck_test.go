package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

const checkMemTable = 1 << 20

// contents are the checksums of a directory's files, but for the lock, which holds the process that had it last.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == lockName {
			return err
		}
		data, err := os.ReadFile(path)
		all[path] = fmt.Sprintf("%d %x", len(data), sha256.Sum256(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCheckWhole(t *testing.T) {
	template, acks := makeTemplate(t, fmt.Sprint(checkMemTable))
	before := contents(t, template)
	values := 0
	o := CheckOptions{Dir: template, memTable: checkMemTable, Value: func(_ context.Context, key string, value []byte) error {
		if !strings.HasPrefix(string(value), key+" ") {
			return errors.New("not the key's")
		}
		if values++; values%10 == 0 {
			return ErrNotRead
		}
		return nil
	}}
	for _, state := range []string{"killed", "killed, and a killed check's copy left"} {
		values = 0
		r, err := Check(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(acks)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), "ack "); !r.Whole() || r.Records != n || r.Objects+r.Superseded+r.Deletions != n || r.Revision != uint64(n)+1 {
			t.Errorf("%s: got %+v, want %d records", state, r, n)
		}
		if r.Acknowledged != r.Revision || r.Tables == 0 || r.Objects == 0 || r.Deletions == 0 || r.Superseded == 0 || r.NotRead != values/10 {
			t.Errorf("%s: got %+v", state, r)
		}
		if after := contents(t, template); !maps.Equal(before, after) {
			t.Errorf("%s: the check changed the store: %v, before %v", state, after, before)
		}
		if err := os.MkdirAll(filepath.Join(template, shadowName, "badger"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	db, err := Open(t.Context(), Options{Dir: template, memTable: checkMemTable})
	if err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(template, shadowName)) {
		t.Error("the server leaves a killed check's copy")
	}
	if _, err := Check(t.Context(), o); !errors.Is(err, ErrLocked) {
		t.Errorf("a store that is served: got %v, want that it is in use", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := Check(t.Context(), o); err != nil || !r.Whole() {
		t.Errorf("closed: got %+v, %v", r, err)
	}
}

// TestShadowIsApart compacts all tables of the copy, which deletes them: Badger empties a file before it deletes it.
func TestShadowIsApart(t *testing.T) {
	template, _ := makeTemplate(t, fmt.Sprint(checkMemTable))
	before := contents(t, template)
	if err := makeShadow(template, 0); err != nil {
		t.Fatal(err)
	}
	db := openTest(t, Options{Dir: filepath.Join(template, shadowName), memTable: checkMemTable})
	ids := map[uint64]bool{}
	for _, table := range db.badger.Tables() {
		ids[table.ID] = true
	}
	waitFor(t, "all tables are new", func() bool {
		if err := db.fillLog(t.Context()); err != nil { // a table over all keys
			t.Fatal(err)
		}
		if err := db.flatten(); err != nil {
			t.Log(err)
		}
		for _, table := range db.badger.Tables() {
			if ids[table.ID] {
				return false
			}
		}
		return true
	})
	if err := errors.Join(db.Close(), removeShadow(template)); err != nil {
		t.Fatal(err)
	}
	if after := contents(t, template); !maps.Equal(before, after) {
		t.Errorf("the copy's end changed the store: %v, before %v", after, before)
	}
}

func TestCheckCannot(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "none"): "no such file", file: "not a directory", dir: "there is no store"} {
		if _, err := Check(t.Context(), CheckOptions{Dir: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	if files := contents(t, dir); len(files) != 1 {
		t.Errorf("the check left %v", files)
	}
}

// TestCheckFinds changes single entries of a store, with all of Badger's checksums right.
func TestCheckFinds(t *testing.T) {
	entry := func(r record) ([]byte, uint32) {
		b, _, sum := encodeRecord(&r)
		return b, sum
	}
	// add writes a record and counts it.
	add := func(t *testing.T, txn *badger.Txn, r record) error {
		item, err := txn.Get([]byte{statePrefix})
		if err != nil {
			return err
		}
		b, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		s, err := decodeState(b)
		if err != nil {
			return err
		}
		data, sum := entry(r)
		s.add(r.rev, sum)
		s.last = max(s.last, r.rev)
		return errors.Join(txn.Set(recordKey(r.rev), data), txn.Set([]byte{statePrefix}, s.encode()))
	}
	const key = "/registry/things/a"
	for _, c := range []struct {
		name   string
		change func(t *testing.T, txn *badger.Txn) error
		value  error
		head   uint64
		want   string
	}{
		{name: "record garbled", want: "revision 3: record is not readable: checksum", change: func(_ *testing.T, txn *badger.Txn) error {
			b, _ := entry(record{rev: 3, kind: recordPut, create: 2, prev: 2, key: key, value: []byte("x")})
			b[len(b)-5]++
			return txn.Set(recordKey(3), b)
		}},
		{name: "record missing", want: "counters: 4 records found, 5 were written", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Delete(recordKey(3))
		}},
		{name: "record replaced", want: "counters: the checksum over all 5 records differs", change: func(_ *testing.T, txn *badger.Txn) error {
			b, _ := entry(record{rev: 3, kind: recordPut, create: 2, prev: 2, key: key, value: []byte("other")})
			return txn.Set(recordKey(3), b)
		}},
		{name: "piece missing", want: "piece 1", change: func(_ *testing.T, txn *badger.Txn) error { return txn.Delete(pieceKey(6, 1)) }},
		{name: "piece too many", want: "entry 7800000000000000030000: piece 0 of revision 3 belongs to no record", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Set(pieceKey(3, 0), []byte("x"))
		}},
		{name: "foreign entry", want: "entry 7a: it is none of the store's", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Set([]byte("z"), []byte("x"))
		}},
		{name: "counters garbled", want: "counters: record is not readable", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Set([]byte{statePrefix}, []byte("x"))
		}},
		{name: "counters missing", want: "counters: they are missing", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Delete([]byte{statePrefix})
		}},
		{name: "follows the wrong version", want: key + " at revision 7: it follows revision 2 of an object begun at 2; the version before is 4 of one begun at 2",
			change: func(t *testing.T, txn *badger.Txn) error {
				return add(t, txn, record{rev: 7, kind: recordPut, create: 2, prev: 2, key: key})
			}},
		{name: "begins after itself", want: key + " at revision 7: its object began at revision 8", change: func(t *testing.T, txn *badger.Txn) error {
			return add(t, txn, record{rev: 7, kind: recordPut, create: 8, prev: 4, key: key})
		}},
		{name: "newer than the counters", want: "revision 6 is newer than the last one, 3", change: func(_ *testing.T, txn *badger.Txn) error {
			return txn.Set([]byte{statePrefix}, (&state{last: 3, count: 5}).encode())
		}},
		{name: "last write missing", head: 7, want: "writes up to revision 7 were acknowledged, the newest found is 6"},
		{name: "value", value: errors.New("no object"), want: key + " at revision 4: value of 5 bytes: no object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{Dir: dir}
			db, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []string{"one", "two", "three"} {
				put(t, db, key, v)
			}
			put(t, db, "/registry/things/b", "b")
			put(t, db, "/registry/things/large", strings.Repeat("l", 3*pieceBytes))
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				if _, _, err := listFiles(filepath.Join(dir, "badger")); err != nil { // removes the log that lies ready
					t.Fatal(err)
				}
				b, err := badger.Open(badgerOptions(&db.opts, filepath.Join(dir, "badger"), nil))
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(b.Update(func(txn *badger.Txn) error { return c.change(t, txn) }), b.Close()); err != nil {
					t.Fatal(err)
				}
			}
			if c.head != 0 {
				h, _, err := openHead(dir)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(h.write(c.head), h.f.Close()); err != nil {
					t.Fatal(err)
				}
			}
			r, err := Check(t.Context(), CheckOptions{Dir: dir, Value: func(_ context.Context, k string, v []byte) error {
				if k == key && string(v) == "three" {
					return c.value
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, p := range r.Problems {
				found = found || strings.Contains(p.Where+": "+p.What, c.want)
			}
			if !found {
				t.Errorf("got %+v, want %q", r.Problems, c.want)
			}
		})
	}
}

func TestCheckNamesFiles(t *testing.T) {
	template, _ := makeTemplate(t, fmt.Sprint(checkMemTable))
	tables, err := filepath.Glob(filepath.Join(template, "badger", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal("no tables", err)
	}
	for _, path := range tables { // all of them, and each is named
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/3] ^= 4
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Check(t.Context(), CheckOptions{Dir: template, memTable: checkMemTable})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Problems) != r.Tables || r.Tables == 0 {
		t.Fatalf("got %+v, want a problem for each table", r)
	}
	for _, p := range r.Problems {
		if _, err := os.Stat(p.Where); err != nil || !strings.Contains(p.What, "checksum") {
			t.Errorf("got %+v, want a table of the store", p)
		}
	}
}
