package backup

import (
	"context"
	"errors"
	"fmt"

	"keelson.dev/keelson/core/store"
)

// ConvertToEtcd writes what is in a backup as a snapshot of etcd. The objects keep their
// revisions; the etcd begins at the backup's. With decrypt, what is encrypted is written in plain; the
// backup must have the keys.
func ConvertToEtcd(ctx context.Context, from, to string, decrypt bool) error {
	a, err := Open(ctx, from)
	if err != nil {
		return err
	}
	err = WriteEtcd(to, a.Header.Revision, func(add func(*store.Object) error) error {
		return a.Each(ctx, func(*File) error { return nil }, func(o *store.Object) (err error) {
			if decrypt {
				if o.Value, err = a.Keys.Plain(ctx, o.Value); err != nil {
					return fmt.Errorf("%s: %w", o.Key, err)
				}
			}
			return add(o)
		})
	})
	return errors.Join(err, a.Close())
}
