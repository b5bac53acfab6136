package backup

import (
	"context"
	"errors"

	"keelson.dev/keelson/core/store"
)

// ConvertToEtcd writes what is in a backup as a snapshot of etcd. The objects keep their
// revisions; the etcd begins at the backup's.
func ConvertToEtcd(ctx context.Context, from, to string) error {
	a, err := Open(ctx, from)
	if err != nil {
		return err
	}
	err = WriteEtcd(to, a.Header.Revision, func(add func(*store.Object) error) error {
		return a.Each(ctx, func(*File) error { return nil }, add)
	})
	return errors.Join(err, a.Close())
}
