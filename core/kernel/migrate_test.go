package kernel

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"testing"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/etcd/etcdtest"
	"keelson.dev/keelson/core/store"
)

// TestMigrate moves objects to an etcd and back.
func TestMigrate(t *testing.T) {
	server := etcdtest.Start(t)
	o := etcd.Options{Servers: []string{server.Endpoint}}
	data := t.TempDir()
	const rev = 3000
	want := map[string]string{}
	err := store.Import(t.Context(), store.Options{Dir: filepath.Join(data, "store")}, rev-1, rev, func(add func(*store.Object) error) error {
		for i := range 1200 { // more than a page
			obj := store.Object{Key: fmt.Sprintf("/registry/configmaps/default/c%04d", i), Value: fmt.Appendf(nil, "value %d", i), Create: uint64(i + 2), Mod: uint64(i + 2)}
			want[obj.Key] = string(obj.Value)
			if err := add(&obj); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	moved, err := MigrateToEtcd(t.Context(), data, o)
	if err != nil || moved.Objects != 1200 || moved.Revision <= rev || moved.Aside == "" {
		t.Fatalf("to etcd: %+v, %v; want 1200 objects above revision %d", moved, err, rev)
	}
	d, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckLoad(t.Context(), 1); !errors.Is(err, etcd.ErrNotEmpty) {
		t.Errorf("load once more: %v, want ErrNotEmpty", err)
	}
	if got, low := all(t, d); !reflect.DeepEqual(got, want) || low <= rev {
		t.Errorf("etcd has %d objects from revision %d, want %d above %d", len(got), low, len(want), rev)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	back, err := MigrateToBadger(t.Context(), data, o, 1000, slog.New(slog.DiscardHandler))
	if err != nil || back.Objects != 1200 || back.Revision != moved.Revision+1000 {
		t.Fatalf("to badger: %+v, %v; want 1200 objects at revision %d", back, err, moved.Revision+1000)
	}
	if _, err := MigrateToBadger(t.Context(), data, o, 1000, nil); !errors.Is(err, backup.ErrExists) {
		t.Errorf("to badger once more: %v, want ErrExists", err)
	}
	db, err := store.Open(t.Context(), store.Options{Dir: filepath.Join(data, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if got, _ := all(t, db); !reflect.DeepEqual(got, want) {
		t.Errorf("badger has %d objects, want %d", len(got), len(want))
	}
}

// all reads a datastore, and tells the lowest revision of an object.
func all(t *testing.T, s backup.Source) (objects map[string]string, low uint64) {
	t.Helper()
	objects, low = map[string]string{}, 1<<62
	err := s.Dump(t.Context(), func(uint64) error { return nil }, func(o *store.Object) error {
		objects[o.Key] = string(o.Value)
		low = min(low, o.Mod)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return objects, low
}

func TestMigrateTooFar(t *testing.T) {
	server := etcdtest.Start(t)
	data := t.TempDir()
	none := func(func(*store.Object) error) error { return nil }
	if err := store.Import(t.Context(), store.Options{Dir: filepath.Join(data, "store")}, 1, 1_000_000_000, none); err != nil {
		t.Fatal(err)
	}
	if _, err := MigrateToEtcd(t.Context(), data, etcd.Options{Servers: []string{server.Endpoint}}); !errors.Is(err, etcd.ErrFar) {
		t.Errorf("got %v, want ErrFar", err)
	}
	if err := store.InUse(filepath.Join(data, "store")); err != nil {
		t.Errorf("the store is held after it was refused: %v", err)
	}
}
