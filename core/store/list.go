package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	etcdmetrics "k8s.io/apiserver/pkg/storage/etcd3/metrics"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// What clients read when history is gone; the words are those of upstream's etcd backend.
const (
	msgListExpired     = "The resourceVersion for the provided list is too old."
	msgContinueExpired = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter."
	msgContinueInconsistent = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
	msgWatchExpired = "The resourceVersion for the provided watch is too old."
)

// ref points to a version of a key.
type ref struct {
	key string
	rev uint64
}

// list is the work on one GetList.
type list struct {
	s        *Storage
	opts     storage.ListOptions
	prefix   string // or the key, if not recursive
	start    string // key to continue from
	rev      uint64 // revision that is listed
	current  bool   // rev was the newest when the list began
	items    reflect.Value
	newItem  func() runtime.Object
	newType  reflect.Type // of items, as pointers
	deep     bool         // items have to be copied whole
	errs     listErrors
	lastKey  string
	hasMore  bool
	inRange  int64 // keys from start on
	haveRefs []ref
	quick    quickCheck
}

// GetList implements storage.Interface. Items share memory with the cache below their top level.
func (s *Storage) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) (err error) {
	prefix, err := s.prepareKey(key, opts.Recursive)
	if err != nil {
		return err
	}
	defer func(start time.Time) { etcdmetrics.RecordEtcdRequest("list", s.resource, err, start) }(time.Now())
	l := &list{s: s, opts: opts, prefix: prefix, errs: listErrors{aggregate: s.aggregate}}
	if err := l.target(listObj); err != nil {
		return err
	}
	withRev, continueKey, err := storage.ValidateListOptions(prefix, s.versioner, opts)
	if err != nil {
		return err
	}
	l.start = continueKey
	l.quick = s.quickCheck(&opts.Predicate)
	if l.quick.trigger != nil && opts.Recursive {
		s.makeTriggerIndex()
	}
	if err := l.collect(withRev); err != nil {
		return l.readError(err, withRev)
	}
	if err := l.fill(ctx); err != nil {
		return l.readError(err, withRev)
	}
	if err := l.errs.err(); err != nil {
		return err
	}
	return l.finish(listObj)
}

// target finds out where items go.
func (l *list) target(listObj runtime.Object) error {
	ptr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return err
	}
	l.items, err = conversion.EnforcePtr(ptr)
	if err != nil || l.items.Kind() != reflect.Slice {
		return fmt.Errorf("need ptr to slice: %w", err)
	}
	elem := l.items.Type().Elem()
	l.newType = reflect.PointerTo(elem)
	l.newItem = func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
	if u, ok := listObj.(*unstructured.UnstructuredList); ok {
		l.deep = true
		if version := u.GetAPIVersion(); version != "" {
			l.newItem = func() runtime.Object {
				return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version}}
			}
		}
	}
	return nil
}

// collect picks the keys and revisions to list, in one step.
func (l *list) collect(withRev int64) error {
	db := l.s.db
	db.mu.RLock()
	defer db.mu.RUnlock()
	switch {
	case withRev == 0:
		if err := l.s.checkMinimum(l.opts.ResourceVersion, db.rev); err != nil {
			return err
		}
		l.rev, l.current = db.rev, true
	case uint64(withRev) > db.rev:
		return errFuture
	case uint64(withRev) < db.compact:
		return errCompacted
	default:
		l.rev, l.current = uint64(withRev), uint64(withRev) == db.rev
	}
	// Without selectors a page needs no more than its keys; with them nobody knows.
	limit := int64(-1)
	if l.opts.Predicate.Limit > 0 && l.opts.Predicate.Empty() {
		limit = l.opts.Predicate.Limit + 1
	}
	take := func(e *entry) bool {
		if v := e.at(l.rev); v != nil {
			l.inRange++
			if limit < 0 || l.inRange <= limit {
				l.haveRefs = append(l.haveRefs, ref{key: e.key, rev: v.rev})
			}
		}
		return true
	}
	if keys, ok := l.few(); ok {
		for _, key := range keys {
			if e := db.index.get(key); e != nil {
				take(e)
			}
		}
	} else if l.opts.Recursive {
		db.index.ascend(l.prefix, l.start, take)
	} else if e := db.index.get(l.prefix); e != nil {
		take(e)
	}
	return nil
}

// few returns the keys that a list of one value of the trigger field needs to look
// at, if it is of what is newest and they are known. The caller holds DB.mu.
func (l *list) few() ([]string, bool) {
	if l.quick.trigger == nil || !l.opts.Recursive || !l.current {
		return nil, false
	}
	keys, ok := l.s.byTrigger.of(l.quick.value)
	return slices.DeleteFunc(keys, func(key string) bool { return key < l.start || !strings.HasPrefix(key, l.prefix) }), ok
}

// fill reads and filters the objects.
func (l *list) fill(ctx context.Context) error {
	pred := l.opts.Predicate
	if pred.Empty() {
		n := len(l.haveRefs)
		if pred.Limit > 0 {
			n = min(n, int(pred.Limit))
		}
		l.items.Set(reflect.MakeSlice(l.items.Type(), 0, n))
	}
	return l.s.db.view(func(txn *badger.Txn) error {
		for _, r := range l.haveRefs {
			if pred.Limit > 0 && int64(l.items.Len()) >= pred.Limit {
				l.hasMore = true
				return nil
			}
			l.lastKey = r.key
			obj, err := l.object(ctx, txn, r)
			if errors.Is(err, errCompacted) {
				return err
			}
			if err != nil {
				if !l.errs.add(r.key, err) {
					return nil
				}
				continue
			}
			if err := ctx.Err(); err != nil {
				return storage.NewTimeoutError(r.key, "request did not complete within requested timeout")
			}
			if !l.quick.mayMatch(obj) {
				continue
			}
			if matched, err := pred.Matches(obj); err == nil && matched {
				if l.deep {
					obj = obj.DeepCopyObject()
				}
				l.append(obj)
			}
		}
		return nil
	})
}

// append is reflect.Append without its allocations.
func (l *list) append(obj runtime.Object) {
	n := l.items.Len()
	if n == l.items.Cap() {
		l.items.Grow(1)
	}
	l.items.SetLen(n + 1)
	l.items.Index(n).Set(reflect.ValueOf(obj).Elem())
}

// object returns one version; it is shared with the cache.
func (l *list) object(ctx context.Context, txn *badger.Txn, r ref) (runtime.Object, error) {
	s := l.s
	if obj := s.db.cache.get(s, r.rev); obj != nil && reflect.TypeOf(obj) == l.newType {
		return obj, nil
	}
	value, err := s.db.readValue(txn, r.key, r.rev)
	if err != nil {
		return nil, err
	}
	data, _, err := s.transformer.TransformFromStorage(ctx, value, authData(r.key))
	if err != nil {
		return nil, storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", r.key, err))
	}
	obj, err := s.decodeInto(data, r.rev, l.newItem())
	if err == nil && l.current && reflect.TypeOf(obj) == reflect.TypeOf(s.newFunc()) {
		s.db.cache.add(s, r.rev, obj, len(value))
	}
	return obj, err
}

func (l *list) finish(listObj runtime.Object) error {
	next, remaining, err := storage.PrepareContinueToken(l.lastKey, l.prefix, int64(l.rev), l.inRange, l.hasMore, l.opts)
	if err != nil {
		return err
	}
	if l.items.IsNil() {
		l.items.Set(reflect.MakeSlice(l.items.Type(), 0, 0))
	}
	if err := l.s.versioner.UpdateList(listObj, l.rev, next, remaining); err != nil {
		return err
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ShardedListAndWatch) {
		l.opts.Predicate.SetShardInfoOnList(listObj)
	}
	return nil
}

// readError turns an error into what clients expect.
func (l *list) readError(err error, withRev int64) error {
	switch {
	case errors.Is(err, errFuture):
		return storage.NewTooLargeResourceVersionError(uint64(withRev), l.s.db.Revision(), 1)
	case !errors.Is(err, errCompacted):
		return err
	case l.opts.Predicate.Continue == "":
		return apierrors.NewResourceExpired(msgListExpired)
	}
	// Revision -1 in a token means: go on with what is newest.
	token, encodeErr := storage.EncodeContinue(l.start, l.prefix, -1)
	if encodeErr != nil {
		return apierrors.NewResourceExpired(msgContinueExpired)
	}
	expired := apierrors.NewResourceExpired(msgContinueInconsistent)
	expired.ErrStatus.ListMeta.Continue = token
	return expired
}
