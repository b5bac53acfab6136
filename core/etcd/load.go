package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"keelson.dev/keelson/core/store"
)

const (
	// bumpLimit is how many revisions Load gives away one by one to reach the one asked for.
	bumpLimit = 2_000_000
	// bumpWorkers do so at the same time.
	bumpWorkers = 64
	// bumpKey is written for it, and deleted at the end.
	bumpKey = "/keelson/revision"
)

// ErrFar says that an etcd's revision is too far below the one that it has to reach.
var ErrFar = errors.New("revision is too far away")

// ErrNotEmpty says that there are objects already.
var ErrNotEmpty = errors.New("there are objects already")

// Load writes all that each hands out into an etcd that has no objects yet. They get new revisions, all above rev,
// and older history is compacted, so a client that remembers a revision from before reads anew. An etcd gives
// revisions one by one only: one that is far below rev is refused with ErrFar, and a snapshot
// (WriteEtcd of package backup) is the way.
func (d *Datastore) Load(ctx context.Context, rev uint64, each func(func(*store.Object) error) error) error {
	if err := d.bump(ctx, rev); err != nil {
		return err
	}
	leases := map[int64]clientv3.LeaseID{}
	err := each(func(o *store.Object) error {
		lease, err := d.grant(ctx, o.Expires, leases)
		if err != nil {
			return err
		}
		key := d.opts.prefix() + o.Key[len(DefaultPrefix):]
		if _, err := d.client.Put(ctx, key, string(o.Value), clientv3.WithLease(lease)); err != nil {
			return fmt.Errorf("write %s to etcd: %w", o.Key, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.Compact(ctx)
}

// CheckLoad tells what would keep Load from being begun.
func (d *Datastore) CheckLoad(ctx context.Context, rev uint64) error {
	r, err := d.client.Get(ctx, d.opts.prefix()+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("read etcd: %w", err)
	}
	if r.Count > 0 {
		return fmt.Errorf("etcd has %d keys below %s: %w", r.Count, d.opts.prefix(), ErrNotEmpty)
	}
	if now := uint64(r.Header.Revision); now < rev && rev-now > bumpLimit {
		return fmt.Errorf("etcd is at revision %d, the cluster at %d: %w; make a snapshot (keelson backup --format=etcd) "+
			"and start the etcd from it (etcdutl snapshot restore), which keeps revisions", now, rev, ErrFar)
	}
	return nil
}

// bump writes until the etcd is at rev.
func (d *Datastore) bump(ctx context.Context, rev uint64) error {
	now, err := d.Revision(ctx)
	if err != nil {
		return err
	}
	if now >= rev {
		return nil
	}
	if rev-now > bumpLimit {
		return ErrFar
	}
	todo := make(chan struct{}, bumpWorkers)
	results := make(chan error, bumpWorkers)
	for range bumpWorkers { // end when todo is closed
		go func() {
			var failed error
			for range todo {
				if failed == nil {
					_, failed = d.client.Put(ctx, bumpKey, "")
				}
			}
			results <- failed
		}()
	}
	for range rev - now {
		todo <- struct{}{}
	}
	close(todo)
	var errs []error
	for range bumpWorkers {
		errs = append(errs, <-results)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("raise the revision of etcd: %w", err)
	}
	if _, err := d.client.Delete(ctx, bumpKey); err != nil {
		return fmt.Errorf("raise the revision of etcd: %w", err)
	}
	return d.Compact(ctx)
}

// grant gives objects that end in the same second the same lease.
func (d *Datastore) grant(ctx context.Context, expires int64, known map[int64]clientv3.LeaseID) (clientv3.LeaseID, error) {
	if expires == 0 {
		return clientv3.NoLease, nil
	}
	if id, ok := known[expires]; ok {
		return id, nil
	}
	r, err := d.client.Grant(ctx, max(expires-time.Now().Unix(), 1))
	if err != nil {
		return 0, fmt.Errorf("make a lease in etcd: %w", err)
	}
	known[expires] = r.ID
	return r.ID, nil
}

// Clear deletes all objects, after they were moved elsewhere.
func (d *Datastore) Clear(ctx context.Context) error {
	if _, err := d.client.Delete(ctx, d.opts.prefix()+"/", clientv3.WithPrefix()); err != nil {
		return fmt.Errorf("delete objects from etcd: %w", err)
	}
	return nil
}
