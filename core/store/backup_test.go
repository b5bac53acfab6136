package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// put writes a raw value and returns its revision.
func putRaw(t testing.TB, db *DB, key, value string, expect uint64) uint64 {
	t.Helper()
	o := &op{kind: opPut, key: key, value: []byte(value), expect: expect}
	if err := db.submit(t.Context(), o); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return o.rev
}

// dump is all that a store holds, by key: value and revisions.
func dump(t testing.TB, db *DB) (rev uint64, all map[string]string) {
	t.Helper()
	all = map[string]string{}
	err := db.Dump(t.Context(), func(r uint64) error { rev = r; return nil }, func(o *Object) error {
		all[o.Key] = fmt.Sprintf("%s %d %d %d", o.Value, o.Create, o.Mod, o.Expires)
		return nil
	})
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	return rev, all
}

func TestSnapshotIsOfOneRevision(t *testing.T) {
	db := openTest(t, Options{})
	// Each writer writes the same number to two keys, the second one first: at any revision
	// the second is equal or one ahead.
	const writers = 4
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range writers {
		first, second := fmt.Sprintf("/registry/a/%d", w), fmt.Sprintf("/registry/b/%d", w)
		revs := map[string]uint64{first: putRaw(t, db, first, "0", 0), second: putRaw(t, db, second, "0", 0)}
		wg.Go(func() {
			for i := 1; ctx.Err() == nil; i++ {
				for _, key := range []string{second, first} {
					put := &op{kind: opPut, key: key, value: strconv.AppendInt(nil, int64(i), 10), expect: revs[key]}
					if err := db.submit(t.Context(), put); err != nil {
						t.Errorf("put: %v", err)
						return
					}
					revs[key] = put.rev
				}
			}
		})
	}
	for range 20 {
		s, err := db.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Compact(t.Context(), db.Revision()); err != nil { // takes away what the snapshot has to see
			t.Fatal(err)
		}
		var newest uint64
		n, ahead := 0, 0
		err = s.Each(t.Context(), func(o *Object) error {
			newest = max(newest, o.Mod)
			n++
			i, err := strconv.Atoi(string(o.Value))
			if o.Key[:12] == "/registry/a/" {
				i = -i
			}
			ahead += i
			return err
		})
		if ahead < 0 || ahead > writers {
			t.Errorf("snapshot at %d mixes revisions: second keys are %d ahead", s.Revision(), ahead)
		}
		if err != nil || newest > s.Revision() || n != s.Len() {
			t.Fatalf("snapshot at %d: %d of %d objects, newest %d, %v", s.Revision(), n, s.Len(), newest, err)
		}
		s.Close()
		s.Close()
	}
	stop()
	wg.Wait()
}

func TestImport(t *testing.T) {
	each := func(objects ...Object) func(func(*Object) error) error {
		return func(f func(*Object) error) error {
			for i := range objects {
				if err := f(&objects[i]); err != nil {
					return err
				}
			}
			return nil
		}
	}
	large := make([]byte, maxValueBytes)
	for _, test := range []struct {
		name       string
		base, last uint64
		objects    []Object
		wrong      bool
	}{
		{name: "nothing", base: 1, last: 2},
		{name: "objects of all sizes", base: 9, last: 20, objects: []Object{
			{Key: "/registry/a", Value: []byte("one"), Create: 2, Mod: 3},
			{Key: "/registry/b", Value: large, Create: 9, Mod: 9},
			{Key: "/registry/c", Value: nil, Create: 4, Mod: 4, Expires: 1 << 40},
		}},
		{name: "two keys of one transaction", base: 9, last: 20, objects: []Object{
			{Key: "/registry/a", Create: 3, Mod: 3}, {Key: "/registry/b", Create: 3, Mod: 3},
		}},
		{name: "no room for new revisions", base: 9, last: 10, wrong: true, objects: []Object{
			{Key: "/registry/a", Create: 3, Mod: 3}, {Key: "/registry/b", Create: 3, Mod: 3},
		}},
		{name: "twice the same key", base: 9, last: 20, wrong: true, objects: []Object{
			{Key: "/registry/a", Create: 3, Mod: 3}, {Key: "/registry/a", Create: 4, Mod: 4},
		}},
		{name: "newer than the base", base: 9, last: 20, wrong: true, objects: []Object{{Key: "/registry/a", Create: 3, Mod: 10}}},
		{name: "created after it was changed", base: 9, last: 20, wrong: true, objects: []Object{{Key: "/registry/a", Create: 4, Mod: 3}}},
		{name: "too large", base: 9, last: 20, wrong: true, objects: []Object{{Key: "/registry/a", Value: append(large, 0), Create: 3, Mod: 3}}},
		{name: "revision not above the base", base: 9, last: 9, wrong: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			err := Import(t.Context(), Options{Dir: dir, Log: testLog(t)}, test.base, test.last, each(test.objects...))
			if test.wrong {
				if err == nil {
					t.Fatal("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := Import(t.Context(), Options{Dir: dir}, test.base, test.last, each()); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("import again: %v, want ErrNotEmpty", err)
			}
			db := openTest(t, Options{Dir: dir})
			rev, got := dump(t, db)
			if rev != test.last || db.CompactRevision() != test.last || len(got) != len(test.objects) {
				t.Errorf("revision %d, compacted %d, %d objects; want %d twice and %d", rev, db.CompactRevision(), len(got), test.last, len(test.objects))
			}
			for i, o := range test.objects {
				if i > 0 && o.Mod == test.objects[i-1].Mod {
					o.Mod = test.base + 1
				}
				if want := fmt.Sprintf("%s %d %d %d", o.Value, o.Create, o.Mod, o.Expires); got[o.Key] != want {
					t.Errorf("%s differs: revisions %d and %d wanted", o.Key, o.Create, o.Mod)
				}
			}
			if rev := putRaw(t, db, "/registry/new", "x", 0); rev != test.last+1 {
				t.Errorf("next revision %d, want %d", rev, test.last+1)
			}
		})
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	if err := InUse(filepath.Join(dir, "none")); err != nil {
		t.Errorf("missing directory: %v", err)
	}
	db := openTest(t, Options{Dir: dir})
	if err := InUse(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("open store: %v, want ErrLocked", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := InUse(dir); err != nil {
		t.Errorf("closed store: %v", err)
	}
}
