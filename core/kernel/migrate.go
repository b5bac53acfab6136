package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/store"
)

// Moved says what a migration did.
type Moved struct {
	// Objects is their number, Revision where the new datastore begins.
	Objects, Revision uint64
	// Aside is where the Badger store was put that is used no more.
	Aside string
}

// MigrateToEtcd moves the objects of a data folder, on which no server runs, to an etcd
// without objects. The folder's store is put aside, so that no server goes on with it.
func MigrateToEtcd(ctx context.Context, dataDir string, o etcd.Options) (_ *Moved, err error) {
	dir := filepath.Join(dataDir, "store")
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("--data-dir %s holds no store: %w", dataDir, err)
	}
	to, err := etcd.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	m := &Moved{}
	if err := fromBadger(ctx, dir, to, m); err != nil {
		return nil, err
	}
	m.Aside = filepath.Join(dataDir, "store-moved-to-etcd-"+time.Now().UTC().Format("20060102T150405"))
	return m, os.Rename(dir, m.Aside)
}

func fromBadger(ctx context.Context, dir string, to *etcd.Datastore, m *Moved) (err error) {
	from, err := store.Open(ctx, store.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := to.CheckLoad(ctx, from.Revision()); err != nil {
		return err
	}
	err = to.Load(ctx, from.Revision(), func(add func(*store.Object) error) error {
		return from.Dump(ctx, func(uint64) error { return nil }, func(o *store.Object) error { m.Objects++; return add(o) })
	})
	if err != nil {
		return errors.Join(err, to.Clear(context.WithoutCancel(ctx))) // it was empty, and can be tried again
	}
	got, rev, err := count(ctx, to)
	if err == nil && got != m.Objects {
		err = fmt.Errorf("etcd has %d objects of %d: does another server write to it?", got, m.Objects)
	}
	m.Revision = rev
	return err
}

func count(ctx context.Context, s backup.Source) (objects, revision uint64, err error) {
	err = s.Dump(ctx, func(rev uint64) error { revision = rev; return nil }, func(*store.Object) error { objects++; return nil })
	return objects, revision, err
}

// MigrateToBadger moves the objects of an etcd into a data folder, on which no server
// runs. They stay in the etcd. A server must not use it any more.
func MigrateToBadger(ctx context.Context, dataDir string, o etcd.Options, margin uint64, log *slog.Logger) (_ *Moved, err error) {
	from, err := etcd.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dataDir, ".migrate-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	a, err := backup.CreateFrom(ctx, filepath.Join(tmp, "backup"), func(w io.Writer) error { return backup.Write(ctx, w, from, nil, "") })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	done, err := backup.Restore(ctx, a, backup.RestoreOptions{DataDir: dataDir, NoPKI: true, Margin: margin, Log: log})
	if err != nil {
		return nil, err
	}
	return &Moved{Objects: a.Objects, Revision: done.Revision, Aside: done.Aside}, nil
}
