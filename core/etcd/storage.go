package etcd

import (
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// NewStorage opens the storage of one resource; it has the form of generic.StorageDecorator. It is what
// upstream's decorator makes, but on the one connection of the Datastore: upstream's has one for each resource,
// which try to reach an etcd that is gone ever more seldom and make requests wait for it a minute.
func (d *Datastore) NewStorage(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	client := d.resourceClient()
	transformer := config.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(client, d.startCompactor(), config.Codec, newFunc, newListFunc, d.opts.prefix(), resourcePrefix, config.GroupResource,
		transformer, config.LeaseManagerConfig, etcd3.NewDefaultDecoder(config.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s in etcd: %w", config.GroupResource, err)
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: store, Versioner: versioner, GroupResource: config.GroupResource, EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix: resourcePrefix, KeyFunc: keyFunc, NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: attrs,
		IndexerFuncs: triggers, Indexers: indexers, Codec: config.Codec,
	})
	if err != nil {
		store.Close()
		return nil, nil, fmt.Errorf("cache %s of etcd: %w", config.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(c, store)
	var once sync.Once // subresources end the storage of their resource too
	return telling{delegator}, func() {
		once.Do(func() {
			delegator.Stop()
			c.Stop()
			store.Close()
			_ = client.Watcher.Close() // of the resource alone; its error is that of the context
		})
	}, nil
}

// resourceClient shares the connection, but has watches of its own: an etcd tells of their progress
// only when all of a stream are up to date.
func (d *Datastore) resourceClient() *kubernetes.Client {
	c := clientv3.NewCtxClient(d.client.Ctx())
	c.Cluster, c.Lease, c.Auth, c.Maintenance = d.client.Cluster, d.client.Lease, d.client.Auth, d.client.Maintenance
	c.KV = etcd3.NewETCDLatencyTracker(d.client.KV)
	c.Watcher = clientv3.NewWatcher(d.client)
	k := &kubernetes.Client{Client: c}
	k.Kubernetes = k
	return k
}

// startCompactor begins to drop history, and to follow others who do, with the first resource.
func (d *Datastore) startCompactor() etcd3.Compactor {
	d.begun.Do(func() {
		d.compactor = etcd3.NewCompactor(d.client, d.opts.CompactionInterval, clock.RealClock{}, func() {})
		// Asks the etcd for its version, which a resource's client cannot.
		feature.DefaultFeatureSupportChecker.CheckClient(d.client.Ctx(), d.client, storage.RequestWatchProgress)
	})
	return d.compactor
}
