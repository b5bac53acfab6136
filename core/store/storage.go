package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
)

// Storage is the storage.Interface of one resource.
type Storage struct {
	db             *DB
	codec          runtime.Codec
	versioner      storage.Versioner
	transformer    value.Transformer
	pathPrefix     string // of all resources, "/registry/"
	resourcePrefix string // "/pods"
	prefix         string // both; keys below it are this resource's
	resource       schema.GroupResource
	newFunc        func() runtime.Object
	getAttrs       storage.AttrFunc
	aggregate      bool // a list collects the errors of corrupt objects, instead of ending at the first
	wrapDecode     bool // decoding errors are marked as corrupt objects
	sizes          atomic.Bool
	trigger        string              // the field by whose value watchers are sorted, "" for none
	triggerFunc    storage.IndexerFunc // returns that value of an object
	byTrigger      triggerIndex

	mu       sync.Mutex // guards watchers
	watchers watchers
}

var (
	_ storage.Interface          = (*Storage)(nil)
	_ generic.StorageDecorator   = (*DB)(nil).NewStorage
	_ runtime.Object             = (*sharedObject)(nil)
	_ value.Context              = authData("")
	_ factory.DestroyFunc        = func() {}
	_ storage.ValidateObjectFunc = storage.ValidateAllObjectFunc
)

// authData ties an encrypted value to its key.
type authData string

// AuthenticatedData implements value.Context.
func (d authData) AuthenticatedData() []byte { return []byte(d) }

// NewStorage makes the storage of one resource; it has the form of generic.StorageDecorator. The returned function
// ends its watches, and may be called more than once.
func (db *DB) NewStorage(config *storagebackend.ConfigForResource, resourcePrefix string, _ func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, getAttrs storage.AttrFunc, triggers storage.IndexerFuncs, _ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	s, err := db.newStorage(config, resourcePrefix, newFunc, getAttrs, triggers)
	if err != nil {
		return nil, nil, err
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion) {
		return s, s.destroy, nil
	}
	s.transformer = corruptTransformer{s.transformer}
	s.wrapDecode = true
	return &unsafeStorage{Storage: s}, s.destroy, nil
}

func (db *DB) newStorage(config *storagebackend.ConfigForResource, resourcePrefix string, newFunc func() runtime.Object,
	getAttrs storage.AttrFunc, triggers storage.IndexerFuncs,
) (*Storage, error) {
	if len(triggers) > 1 {
		return nil, fmt.Errorf("storage of %s: %d triggers, one is supported", config.GroupResource, len(triggers))
	}
	if !strings.HasPrefix(resourcePrefix, "/") || resourcePrefix == "/" {
		return nil, fmt.Errorf("storage of %s: resource prefix %q has to begin with / and to name a resource", config.GroupResource, resourcePrefix)
	}
	if newFunc == nil {
		return nil, fmt.Errorf("storage of %s: no function that makes an empty object", config.GroupResource)
	}
	pathPrefix := path.Join("/", config.Prefix)
	if !strings.HasSuffix(pathPrefix, "/") {
		pathPrefix += "/"
	}
	s := &Storage{
		db: db, codec: config.Codec, versioner: storage.APIObjectVersioner{}, transformer: config.Transformer,
		pathPrefix: pathPrefix, resourcePrefix: resourcePrefix, resource: config.GroupResource,
		newFunc: newFunc, getAttrs: getAttrs, watchers: newWatchers(),
		aggregate: utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion),
	}
	if s.transformer == nil {
		s.transformer = identity.NewEncryptCheckTransformer()
	}
	for s.trigger, s.triggerFunc = range triggers {
	}
	s.prefix = pathPrefix + strings.TrimSuffix(resourcePrefix[1:], "/") + "/"
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed.Load() {
		return nil, ErrClosed
	}
	db.storages = append(db.storages, s)
	return s, nil
}

// destroy ends the watches and forgets the storage.
func (s *Storage) destroy() {
	s.db.mu.Lock()
	s.db.storages = slices.DeleteFunc(s.db.storages, func(o *Storage) bool { return o == s })
	s.db.mu.Unlock()
	s.mu.Lock()
	s.watchers.each(func(w *watcher) { w.cancel() })
	s.mu.Unlock()
	s.db.cache.purge(s)
}

// Versioner implements storage.Interface.
func (s *Storage) Versioner() storage.Versioner { return s.versioner }

// prepareKey returns the full key of what the registry calls key.
func (s *Storage) prepareKey(key string, recursive bool) (string, error) {
	key, err := storage.PrepareKey(s.resourcePrefix, key, recursive)
	if err != nil {
		return "", err
	}
	return s.pathPrefix + strings.TrimPrefix(key, "/"), nil
}

// decode makes an object of what the transformer returned.
func (s *Storage) decode(data []byte, rev uint64) (runtime.Object, error) {
	return s.decodeInto(data, rev, s.newFunc())
}

func (s *Storage) decodeInto(data []byte, rev uint64, into runtime.Object) (runtime.Object, error) {
	obj, _, err := s.codec.Decode(data, nil, into)
	if err == nil {
		if _, untyped := obj.(runtime.Unstructured); !untyped { // the encoder sets it, for a list but on the list
			obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		err = s.versioner.UpdateObject(obj, rev)
	}
	if err != nil && s.wrapDecode {
		err = &corruptObjectError{err: err, kind: undecodable, revision: rev}
	}
	return obj, err
}

// setOut makes out a copy of the object that a write made, which watchers and cache share.
func (s *Storage) setOut(e *event, plain []byte, out runtime.Object) error {
	if cur := e.current(); cur.err == nil && reflect.TypeOf(cur.obj) == reflect.TypeOf(out) {
		return copyInto(cur.obj, out)
	}
	_, err := s.decodeInto(plain, e.rev, out)
	return err
}

// copyInto makes out, which has the same type, a copy of obj.
func copyInto(obj, out runtime.Object) error {
	dst := reflect.ValueOf(out)
	if dst.Kind() != reflect.Pointer || dst.IsNil() {
		return fmt.Errorf("unable to convert output object to pointer: %T", out)
	}
	dst.Elem().Set(reflect.ValueOf(obj.DeepCopyObject()).Elem())
	return nil
}

// latest returns the current version of a key and the revision of the store.
func (db *DB) latest(key string) (v version, found bool, rev uint64) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if e := db.index.get(key); e != nil {
		if l := e.latest(); l != nil {
			return *l, true, db.rev
		}
	}
	return version{}, false, db.rev
}

// Get implements storage.Interface.
func (s *Storage) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := s.prepareKey(key, false)
	if err != nil {
		return err
	}
	for tried := uint64(0); ; {
		v, found, rev := s.db.latest(key)
		if err := s.checkMinimum(opts.ResourceVersion, rev); err != nil {
			return err
		}
		if !found {
			if opts.IgnoreNotFound {
				return runtime.SetZeroValue(out)
			}
			return storage.NewKeyNotFoundError(key, 0)
		}
		err := s.getInto(ctx, key, v.rev, out)
		if !errors.Is(err, errCompacted) {
			return err
		}
		if tried == v.rev { // else it was superseded and compacted meanwhile
			return storage.NewInternalError(s.db.missing(key, v.rev))
		}
		tried = v.rev
	}
}

func (s *Storage) getInto(ctx context.Context, key string, rev uint64, out runtime.Object) error {
	if obj := s.db.cache.get(s, rev); obj != nil && reflect.TypeOf(obj) == reflect.TypeOf(out) {
		return handOut(ctx, obj, out)
	}
	value, err := s.readStored(key, rev)
	if err != nil {
		return err
	}
	data, _, err := s.transformer.TransformFromStorage(s.db.ctx, value, authData(key))
	if err != nil {
		return storage.NewInternalError(err)
	}
	if reflect.TypeOf(out) != reflect.TypeOf(s.newFunc()) {
		_, err := s.decodeInto(data, rev, out)
		return err
	}
	obj, err := s.decode(data, rev)
	if err != nil {
		return err
	}
	s.db.cache.add(s, rev, obj, len(value))
	return copyInto(obj, out)
}

// checkMinimum refuses a "not older than" revision that was not given yet.
func (s *Storage) checkMinimum(minimum string, rev uint64) error {
	if minimum == "" {
		return nil
	}
	want, err := s.versioner.ParseResourceVersion(minimum)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if want > rev {
		return storage.NewTooLargeResourceVersionError(want, rev, 1)
	}
	return nil
}

// Create implements storage.Interface.
func (s *Storage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	key, err := s.prepareKey(key, false)
	if err != nil {
		return err
	}
	if rv, err := s.versioner.ObjectResourceVersion(obj); err == nil && rv != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	plain, err := runtime.Encode(s.codec, obj)
	if err != nil {
		return err
	}
	o, err := s.putOp(ctx, key, plain, 0, ttl)
	if err != nil {
		return err
	}
	o.trigger.is, o.trigger.known = s.triggerValue(obj)
	o.trigger.was = o.trigger.is
	err = s.write(ctx, "create", o)
	if errors.Is(err, errConflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil || out == nil {
		return err
	}
	return s.setOut(o.event, plain, out)
}

// putOp makes the request to write an object.
func (s *Storage) putOp(ctx context.Context, key string, plain []byte, expect, ttl uint64) (*op, error) {
	stored, err := s.transformer.TransformToStorage(ctx, plain, authData(key))
	if err != nil {
		return nil, storage.NewInternalError(err)
	}
	if len(stored) > maxValueBytes {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%s takes %d bytes in the store, the limit is %d", key, len(stored), maxValueBytes))
	}
	o := &op{kind: opPut, key: key, expect: expect, value: stored, plain: plain, storage: s}
	if ttl != 0 {
		o.expires = time.Now().Add(time.Duration(ttl) * time.Second).Unix()
	}
	return o, nil
}

// ReadinessCheck implements storage.Interface.
func (s *Storage) ReadinessCheck() error {
	if s.db.closed.Load() {
		return ErrClosed
	}
	if err := s.db.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// GetCurrentResourceVersion implements storage.Interface.
func (s *Storage) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return s.db.Revision(), nil
}

// CompactRevision implements storage.Interface.
func (s *Storage) CompactRevision() int64 { return int64(s.db.CompactRevision()) }

// EnableResourceSizeEstimation implements storage.Interface; the keys function is not needed, the index knows the sizes.
func (s *Storage) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("KeysFunc cannot be nil")
	}
	if s.sizes.Swap(true) {
		return errors.New("resource size estimation is enabled already")
	}
	return nil
}

// Stats implements storage.Interface.
func (s *Storage) Stats(context.Context) (storage.Stats, error) {
	var count, size int64
	s.db.mu.RLock()
	s.db.index.ascend(s.prefix, "", func(e *entry) bool {
		if v := e.latest(); v != nil {
			count++
			size += int64(v.size)
		}
		return true
	})
	s.db.mu.RUnlock()
	stats := storage.Stats{ObjectCount: count}
	if s.sizes.Load() && count > 0 {
		stats.EstimatedAverageObjectSizeBytes = size / count
	}
	return stats, nil
}
