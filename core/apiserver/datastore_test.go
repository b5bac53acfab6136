package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/etcd/etcdtest"
	"keelson.dev/keelson/core/store"
)

// testDatastore is the environment variable that says on what the tests run:
// DatastoreEtcd, else Badger.
const testDatastore = "KEELSON_TEST_DATASTORE"

// testEtcd runs for all tests of the package if they are to run on etcd; each has
// a prefix of its own there. It is set before the first.
var testEtcd *etcdtest.Server

// startTestEtcd runs it where it is wanted. The function stops it.
func startTestEtcd() (stop func(), err error) {
	if os.Getenv(testDatastore) != DatastoreEtcd {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "keelson-test-etcd-")
	if err != nil {
		return nil, err
	}
	if testEtcd, err = etcdtest.Run(dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return func() { testEtcd.Stop(); _ = os.RemoveAll(dir) }, nil
}

// openTestDatastore opens the datastore of the test whose folder is dir.
func openTestDatastore(ctx context.Context, dir string) (Datastore, error) {
	o := DatastoreOptions{Kind: DatastoreBadger}
	if testEtcd != nil {
		sum := sha256.Sum256([]byte(dir))
		o = DatastoreOptions{Kind: DatastoreEtcd, Etcd: etcd.Options{
			Servers: []string{testEtcd.Endpoint}, Prefix: "/test/" + hex.EncodeToString(sum[:8]), CompactionInterval: 5 * time.Minute,
		}}
	}
	return OpenDatastore(ctx, o, filepath.Join(dir, "store"), nil)
}

// compactNow drops all history.
func compactNow(ctx context.Context, db Datastore) error {
	switch db := db.(type) {
	case *store.DB:
		return db.Compact(ctx, db.Revision())
	case *etcd.Datastore:
		return db.Compact(ctx)
	}
	return fmt.Errorf("%T cannot be compacted", db)
}
