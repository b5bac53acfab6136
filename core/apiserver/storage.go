package apiserver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/encryption"
	"keelson.dev/keelson/core/registry"
)

// deleteWorkers is how many objects a collection's deletion removes at a time;
// the store commits them together.
const deleteWorkers = 8

// storageOptions opens the store's part for each resource.
type storageOptions struct {
	db  Datastore
	any storage.Interface            // of one resource, to ask how the store is; set before anything is served
	all map[string]storage.Interface // by resource, "deployments.apps"; guarded by mu
	mu  sync.RWMutex
	// transformers encrypt what is stored; nil: nothing is encrypted.
	transformers *encryption.Transformers
}

var _ generic.RESTOptionsGetter = (*storageOptions)(nil)

// ready says what keeps the store from serving.
func (o *storageOptions) ready() error {
	if o.any == nil {
		return errors.New("no resource is stored")
	}
	return o.any.ReadinessCheck()
}

// open is a generic.StorageDecorator.
func (o *storageOptions) open(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	s, destroy, err := o.db.NewStorage(config, prefix, key, newFunc, newListFunc, attrs, triggers, indexers)
	if err == nil {
		o.mu.Lock()
		if o.any == nil { // custom resources open theirs while serving
			o.any = s
		}
		o.all[config.GroupResource.String()] = s
		o.mu.Unlock()
	}
	return s, func() { o.forget(config.GroupResource.String(), s); destroy() }, err
}

// forget takes out the storage of a custom resource that is served no more.
func (o *storageOptions) forget(resource string, s storage.Interface) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all[resource] == s {
		delete(o.all, resource)
	}
}

// of gives the storage of a resource, nil if there is none.
func (o *storageOptions) of(resource string) storage.Interface {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.all[resource]
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *storageOptions) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	codec := registry.StorageCodec(resource.Group)
	config := storagebackend.NewDefaultConfig("/registry", codec)
	// What discovery's storageVersionHash tells.
	config.EncodeVersioner = runtime.NewMultiGroupVersioner(registry.StorageVersion(resource.Group), schema.GroupKind{Group: resource.Group})
	if o.transformers != nil {
		config.Transformer = o.transformers.TransformerForResource(resource)
	}
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(resource),
		Decorator:               o.open,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		ResourcePrefix:          registry.KeyPrefix(resource),
	}, nil
}

// storedObjects looks up what tokens are bound to and the nodes that admission asks
// for, straight in the registry: what the last write said, without a request of its own. Its fields are set
// before anything is served.
type storedObjects struct{ accounts, pods, secrets, nodes rest.Getter }

var _ auth.Objects = (*storedObjects)(nil)

// use finds the registries of the core group.
func (o *storedObjects) use(groups []*genericapiserver.APIGroupInfo) error {
	for _, g := range groups {
		if g.PrioritizedVersions[0].Group != "" {
			continue
		}
		core := g.VersionedResourcesStorageMap["v1"]
		for name, getter := range map[string]*rest.Getter{
			"serviceaccounts": &o.accounts, "pods": &o.pods, "secrets": &o.secrets, "nodes": &o.nodes,
		} {
			got, ok := core[name].(rest.Getter)
			if !ok {
				return fmt.Errorf("the registry has no %s to check tokens against", name)
			}
			*getter = got
		}
		return nil
	}
	return fmt.Errorf("the registry has no core group")
}

func get[T runtime.Object](ctx context.Context, from rest.Getter, namespace, name string) (T, error) {
	var none T
	obj, err := from.Get(request.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err != nil {
		return none, err
	}
	t, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("get %s/%s: stored as %T", namespace, name, obj)
	}
	return t, nil
}

func (o *storedObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return get[*corev1.ServiceAccount](ctx, o.accounts, namespace, name)
}

func (o *storedObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return get[*corev1.Pod](ctx, o.pods, namespace, name)
}

func (o *storedObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return get[*corev1.Secret](ctx, o.secrets, namespace, name)
}

func (o *storedObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return get[*corev1.Node](ctx, o.nodes, "", name)
}
