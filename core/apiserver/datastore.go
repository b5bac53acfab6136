package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/store"
)

// Datastore is what an API server needs of what keeps its objects: a store.DB, or an etcd.
type Datastore interface {
	backup.Source
	// NewStorage opens the part of one resource; it is a generic.StorageDecorator.
	NewStorage(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error)
	// Close ends it, after all that it opened has ended.
	Close() error
}

var (
	_ Datastore     = (*store.DB)(nil)
	_ Datastore     = (*etcd.Datastore)(nil)
	_ healthChecker = (*etcd.Datastore)(nil)
)
