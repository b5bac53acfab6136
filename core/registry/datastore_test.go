package registry_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/etcd/etcdtest"
)

// testDatastore is the environment variable that says on what the tests run: "etcd", else
// the server's own store. It is that of core/apiserver's tests.
const testDatastore = "KEELSON_TEST_DATASTORE"

// testEtcd runs for all tests of the package if they are to run on etcd; each has a prefix of its own there.
var testEtcd *etcdtest.Server

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Getenv(testDatastore) != apiserver.DatastoreEtcd {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "keelson-test-etcd-")
	if err == nil {
		defer os.RemoveAll(dir)
		testEtcd, err = etcdtest.Run(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer testEtcd.Stop()
	return m.Run()
}

// openDatastore opens that of the test whose folder is dir.
func openDatastore(ctx context.Context, dir string) (apiserver.Datastore, error) {
	o := apiserver.DatastoreOptions{Kind: apiserver.DatastoreBadger}
	if testEtcd != nil {
		sum := sha256.Sum256([]byte(dir))
		o = apiserver.DatastoreOptions{Kind: apiserver.DatastoreEtcd, Etcd: etcd.Options{
			Servers: []string{testEtcd.Endpoint}, Prefix: "/test/" + hex.EncodeToString(sum[:8]),
		}}
	}
	return apiserver.OpenDatastore(ctx, o, filepath.Join(dir, "store"), nil)
}
