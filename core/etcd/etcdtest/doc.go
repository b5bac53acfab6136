// Package etcdtest runs a real etcd for tests: the one that go.mod has as a tool (go.etcd.io/etcd/server/v3), which Go builds
// once and keeps, or the one that the environment variable KEELSON_TEST_ETCD names.
package etcdtest
