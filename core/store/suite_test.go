package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() {
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	utilruntime.Must(example.AddToScheme(scheme))
	utilruntime.Must(examplev1.AddToScheme(scheme))
}

const testPrefix = "test!"

// fixture is how a test wants its storage.
type fixture struct {
	options     Options
	codec       runtime.Codec
	transformer value.Transformer
	getAttrs    storage.AttrFunc
	triggers    storage.IndexerFuncs
}

// testLog writes to the test's log.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		t.Log(strings.TrimSpace(string(b)))
		return len(b), nil
	}), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// openTest opens a store that ends with the test.
func openTest(t testing.TB, o Options) *DB {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Log == nil {
		o.Log = testLog(t)
	}
	db, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return db
}

func podConfig(f fixture) *storagebackend.ConfigForResource {
	if f.codec == nil {
		f.codec = apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)
	}
	if f.transformer == nil {
		f.transformer = storagetesting.NewPrefixTransformer([]byte(testPrefix), false)
	}
	c := storagebackend.NewDefaultConfig("", f.codec)
	c.Transformer = f.transformer
	return c.ForResource(schema.GroupResource{Resource: "pods"})
}

func newPod() runtime.Object { return &example.Pod{} }

// newTest returns a storage of pods in a new store.
func newTest(t testing.TB, f fixture) (context.Context, *Storage) {
	t.Helper()
	db := openTest(t, f.options)
	s, err := db.newStorage(podConfig(f), "/pods/", newPod, f.getAttrs, f.triggers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.destroy)
	return t.Context(), s
}

func compaction(s *Storage) storagetesting.Compaction {
	return func(ctx context.Context, t *testing.T, resourceVersion string) {
		rev, err := s.versioner.ParseResourceVersion(resourceVersion)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.db.Compact(ctx, rev); err != nil {
			t.Fatal(err)
		}
	}
}

func increaseRV(s *Storage) storagetesting.IncreaseRVFunc {
	return func(ctx context.Context, t *testing.T) int64 {
		v, _, _ := s.db.latest("increaseRV")
		o := &op{kind: opPut, key: "increaseRV", expect: v.rev, value: []byte("ok")}
		if err := s.db.submit(ctx, o); err != nil {
			t.Fatal(err)
		}
		return int64(o.rev)
	}
}

func checkStored(s *Storage) storagetesting.KeyValidation {
	return func(_ context.Context, t *testing.T, key string) {
		v, found, _ := s.db.latest(key)
		if !found {
			t.Fatalf("nothing stored at %s", key)
		}
		data, err := s.readStored(key, v.rev)
		if err != nil {
			t.Fatal(err)
		}
		obj, err := runtime.Decode(s.codec, data[len(testPrefix):])
		if err != nil {
			t.Fatalf("decode %q: %v", data, err)
		}
		if pod := obj.(*example.Pod); pod.ResourceVersion != "" || pod.SelfLink != "" { //nolint:staticcheck // as long as the field is there
			t.Errorf("stored with resource version %q and self link %q, want none", pod.ResourceVersion, pod.SelfLink) //nolint:staticcheck // as above
		}
	}
}

// anyCalls stands where etcd's tests count requests and decodings; here a list is one pass over the index, and
// most objects come from the cache.
func anyCalls(*testing.T, uint64, uint64) {}

// withTransformer lets the suite exchange the transformer, with which cached objects lose their meaning.
type withTransformer struct {
	storage.Interface
	s *Storage
}

func (s *withTransformer) set(next value.Transformer) func() {
	old := s.s.transformer
	s.s.transformer = next
	s.s.db.cache.purge(s.s)
	return func() { s.s.transformer = old; s.s.db.cache.purge(s.s) }
}

func (s *withTransformer) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	t := *s.s.transformer.(*storagetesting.PrefixTransformer)
	return s.set(modify(&t))
}

func (s *withTransformer) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return s.set(modify(s.s.transformer))
}

type failingCodec struct {
	runtime.Codec
	fail atomic.Bool
}

func (c *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.fail.Load() {
		return nil, nil, errors.New("synthetic error")
	}
	return c.Codec.Decode(data, defaults, into)
}

type failingTransformer struct {
	value.Transformer
	fail atomic.Bool
}

func (t *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if t.fail.Load() {
		return nil, false, errors.New("synthetic error")
	}
	return t.Transformer.TransformFromStorage(ctx, data, dataCtx)
}

// TestStorageSuite runs upstream's suite for storage.Interface, once with the cache and once without.
func TestStorageSuite(t *testing.T) {
	for _, cacheBytes := range []int64{0, -1} {
		name := map[int64]string{0: "cached", -1: "uncached"}[cacheBytes]
		t.Run(name, func(t *testing.T) {
			for _, c := range suite {
				t.Run(c.name, func(t *testing.T) {
					ctx, s := newTest(t, fixture{options: Options{CacheBytes: cacheBytes}})
					c.run(ctx, t, s)
				})
			}
		})
	}
}

type suiteCase struct {
	name string
	run  func(context.Context, *testing.T, *Storage)
}

func plain(f func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, *Storage) {
	return func(ctx context.Context, t *testing.T, s *Storage) { f(ctx, t, s) }
}

var suite = []suiteCase{
	{"Create", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestCreate(ctx, t, s, checkStored(s))
	}},
	{"CreateWithTTL", plain(storagetesting.RunTestCreateWithTTL)},
	{"CreateWithKeyExist", plain(storagetesting.RunTestCreateWithKeyExist)},
	{"Get", plain(storagetesting.RunTestGet)},
	{"UnconditionalDelete", plain(storagetesting.RunTestUnconditionalDelete)},
	{"ConditionalDelete", plain(storagetesting.RunTestConditionalDelete)},
	{"DeleteWithSuggestion", plain(storagetesting.RunTestDeleteWithSuggestion)},
	{"DeleteWithSuggestionAndConflict", plain(storagetesting.RunTestDeleteWithSuggestionAndConflict)},
	{"DeleteWithConflict", plain(storagetesting.RunTestDeleteWithConflict)},
	{"DeleteWithSuggestionOfDeletedObject", plain(storagetesting.RunTestDeleteWithSuggestionOfDeletedObject)},
	{"ValidateDeletionWithSuggestion", plain(storagetesting.RunTestValidateDeletionWithSuggestion)},
	{"ValidateDeletionWithOnlySuggestionValid", plain(storagetesting.RunTestValidateDeletionWithOnlySuggestionValid)},
	{"PreconditionalDeleteWithSuggestion", plain(storagetesting.RunTestPreconditionalDeleteWithSuggestion)},
	{"PreconditionalDeleteWithOnlySuggestionPass", plain(storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass)},
	{"List", func(ctx context.Context, t *testing.T, s *Storage) {
		// With etcd a compaction takes a revision itself, and this test counts on it.
		compact := func(ctx context.Context, t *testing.T, rv string) { compaction(s)(ctx, t, rv); increaseRV(s)(ctx, t) }
		storagetesting.RunTestList(ctx, t, s, compact, false, &storagetesting.KubernetesRecorder{})
	}},
	{"ConsistentList", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestConsistentList(ctx, t, s, increaseRV(s), false, true, false)
	}},
	{"GetListNonRecursive", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestGetListNonRecursive(ctx, t, increaseRV(s), s)
	}},
	{"GetListRecursivePrefix", plain(storagetesting.RunTestGetListRecursivePrefix)},
	{"ListContinuation", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestListContinuation(ctx, t, s, anyCalls)
	}},
	{"ListPaginationRareObject", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestListPaginationRareObject(ctx, t, s, anyCalls)
	}},
	{"ListContinuationWithFilter", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestListContinuationWithFilter(ctx, t, s, anyCalls)
	}},
	{"ListInconsistentContinuation", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestListInconsistentContinuation(ctx, t, s, compaction(s))
	}},
	{"ListResourceVersionMatch", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestListResourceVersionMatch(ctx, t, &withTransformer{s, s})
	}},
	{"ListPaging", plain(storagetesting.RunTestListPaging)},
	{"NamespaceScopedList", plain(storagetesting.RunTestNamespaceScopedList)},
	{"GuaranteedUpdate", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestGuaranteedUpdate(ctx, t, &withTransformer{s, s}, checkStored(s))
	}},
	{"GuaranteedUpdateWithTTL", plain(storagetesting.RunTestGuaranteedUpdateWithTTL)},
	{"GuaranteedUpdateChecksStoredData", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(ctx, t, &withTransformer{s, s})
	}},
	{"GuaranteedUpdateWithConflict", plain(storagetesting.RunTestGuaranteedUpdateWithConflict)},
	{"GuaranteedUpdateWithSuggestionAndConflict", plain(storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict)},
	{"TransformationFailure", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestTransformationFailure(ctx, t, &withTransformer{s, s})
	}},
	{"CompactRevision", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestCompactRevision(ctx, t, s, increaseRV(s), compaction(s))
	}},
	{"KeySchema", plain(storagetesting.RunTestKeySchema)},
	{"Stats", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestStats(ctx, t, s, s.codec, s.transformer, false)
	}},
	{"StatsWithSizes", func(ctx context.Context, t *testing.T, s *Storage) {
		if err := s.EnableResourceSizeEstimation(func(context.Context) ([]string, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		storagetesting.RunTestStats(ctx, t, s, s.codec, s.transformer, true)
	}},
	{"Watch", plain(storagetesting.RunTestWatch)},
	{"ClusterScopedWatch", plain(storagetesting.RunTestClusterScopedWatch)},
	{"NamespaceScopedWatch", plain(storagetesting.RunTestNamespaceScopedWatch)},
	{"DeleteTriggerWatch", plain(storagetesting.RunTestDeleteTriggerWatch)},
	{"WatchFromZero", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestWatchFromZero(ctx, t, s, compaction(s))
	}},
	{"WatchFromNonZero", plain(storagetesting.RunTestWatchFromNonZero)},
	{"DelayedWatchDelivery", plain(storagetesting.RunTestDelayedWatchDelivery)},
	{"WatchError", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestWatchError(ctx, t, &withTransformer{s, s})
	}},
	{"WatchContextCancel", plain(storagetesting.RunTestWatchContextCancel)},
	{"WatcherTimeout", plain(storagetesting.RunTestWatcherTimeout)},
	{"WatchDeleteEventObjectHaveLatestRV", plain(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
	{"WatchInitializationSignal", plain(storagetesting.RunTestWatchInitializationSignal)},
	{"SendInitialEventsBackwardCompatibility", plain(storagetesting.RunSendInitialEventsBackwardCompatibility)},
	{"WatchSemantics", plain(storagetesting.RunWatchSemantics)},
	{"WatchSemanticInitialEventsExtended", plain(storagetesting.RunWatchSemanticInitialEventsExtended)},
	{"WatchListMatchSingle", plain(storagetesting.RunWatchListMatchSingle)},
	{"WatchErrorIsBlockingFurtherEvents", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(ctx, t, &withTransformer{s, s})
	}},
	{"WatchDispatchBookmarkEvents", func(ctx context.Context, t *testing.T, s *Storage) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s, true)
	}},
	{"OptionalWatchBookmarksWithCorrectResourceVersion", plain(storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion)},
}

func TestStorageSuiteProgressNotify(t *testing.T) {
	ctx, s := newTest(t, fixture{options: Options{BookmarkInterval: 100 * time.Millisecond}})
	storagetesting.RunOptionalTestProgressNotify(ctx, t, s, increaseRV(s))
}

// TestStorageSuiteUnsafeDelete runs the parts of the suite on objects that cannot be decrypted or decoded.
func TestStorageSuiteUnsafeDelete(t *testing.T) {
	corrupt := &corruptObjectError{err: fmt.Errorf("bits flipped"), kind: untransformable}
	uncached := Options{CacheBytes: -1}
	t.Run("DeleteWithConflictAndMissingExpectedTransformOrDecodeError", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		codec := &failingCodec{Codec: apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)}
		ctx, s := newTest(t, fixture{codec: codec, options: uncached})
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, s, codec.fail.Store)
	})
	t.Run("DeleteExpectedTransformError", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		tr := &failingTransformer{Transformer: storagetesting.NewPrefixTransformer([]byte(testPrefix), false)}
		ctx, s := newTest(t, fixture{transformer: tr, options: uncached})
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, s, tr.fail.Store)
	})
	t.Run("DeleteExpectedDecodeError", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		codec := &failingCodec{Codec: apitesting.TestCodec(codecs, examplev1.SchemeGroupVersion)}
		ctx, s := newTest(t, fixture{codec: codec, options: uncached})
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, s, codec.fail.Store)
	})
	t.Run("DeleteWithSuggestionAndMissingExpectedError", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		ctx, s := newTest(t, fixture{})
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, s)
	})
	t.Run("GetListWithErrorAggregation", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		ctx, s := newTest(t, fixture{})
		storagetesting.RunTestGetListWithErrorAggregation(ctx, t, &withTransformer{&unsafeStorage{s}, s}, corrupt)
	})
	t.Run("GetListWithoutErrorAggregation", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, false)
		ctx, s := newTest(t, fixture{})
		storagetesting.RunTestGetListWithoutErrorAggregation(ctx, t, &withTransformer{s, s}, corrupt)
	})
	t.Run("WatchWithUnsafeDelete", func(t *testing.T) {
		featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowUnsafeMalformedObjectDeletion, true)
		ctx, s := newTest(t, fixture{})
		storagetesting.RunTestWatchWithUnsafeDelete(ctx, t, &withTransformer{s, s}, corrupt)
	})
}
