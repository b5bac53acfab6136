package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// objState is a version of an object that an update or deletion starts from.
type objState struct {
	obj   runtime.Object // owned by the update
	rev   uint64         // 0 if the object does not exist
	data  []byte         // what it encodes to
	stale bool           // the transformer wants it rewritten
	fresh bool           // read from the store, not handed in by the caller

	trigger triggerValues
}

func (st *objState) meta() storage.ResponseMeta { return storage.ResponseMeta{ResourceVersion: st.rev} }

// reader reads the current state of one object for one update.
type reader struct {
	s              *Storage
	ctx            context.Context // of the call that made the reader
	key            string
	v              reflect.Value // of the caller's object, for its type
	ignoreNotFound bool
	wantCorrupt    bool // the object has to be unreadable
}

func (r *reader) read() (*objState, error) {
	for tried := uint64(0); ; {
		v, found, _ := r.s.db.latest(r.key)
		if !found {
			return r.missing()
		}
		st, err := r.load(v.rev)
		if !errors.Is(err, errCompacted) {
			return st, err
		}
		if tried == v.rev { // else it was superseded and compacted meanwhile
			return nil, storage.NewInternalError(r.s.db.missing(r.key, v.rev))
		}
		tried = v.rev
	}
}

func (r *reader) empty() runtime.Object {
	if u, ok := reflect.TypeAssert[runtime.Unstructured](r.v.Addr()); ok {
		return u.NewEmptyInstance()
	}
	return reflect.New(r.v.Type()).Interface().(runtime.Object)
}

func (r *reader) missing() (*objState, error) {
	if !r.ignoreNotFound {
		return nil, storage.NewKeyNotFoundError(r.key, 0)
	}
	st := &objState{obj: r.empty(), fresh: true}
	return st, runtime.SetZeroValue(st.obj)
}

func (r *reader) load(rev uint64) (*objState, error) {
	stored, err := r.s.readStored(r.key, rev)
	if err != nil {
		return nil, err
	}
	st := &objState{rev: rev, fresh: true}
	st.data, st.stale, err = r.s.transformer.TransformFromStorage(r.ctx, stored, authData(r.key))
	if err != nil {
		if r.wantCorrupt {
			return st, nil
		}
		return nil, storage.NewInternalError(err)
	}
	obj := r.empty()
	if have := r.s.db.cache.get(r.s, rev); have != nil && !r.wantCorrupt && reflect.TypeOf(have) == reflect.TypeOf(obj) {
		st.obj = have.DeepCopyObject()
		return st, nil
	}
	if _, err := r.s.decodeInto(st.data, rev, obj); err != nil {
		if r.wantCorrupt {
			return st, nil
		}
		return nil, err
	}
	if r.wantCorrupt {
		return nil, storage.NewInvalidObjError(r.key, "unsafe deletion is not allowed because the object is decodable from storage")
	}
	st.obj = obj
	return st, nil
}

// fromObject makes a state of an object that the caller had at hand; it may be out of date.
func (s *Storage) fromObject(obj runtime.Object) (*objState, error) {
	rev, err := s.versioner.ObjectResourceVersion(obj)
	if err != nil {
		return nil, fmt.Errorf("read resource version: %w", err)
	}
	// Objects are stored without their revision.
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, fmt.Errorf("prepare object for storage: %w", err)
	}
	data, err := runtime.Encode(s.codec, obj)
	if err != nil {
		return nil, err
	}
	if err := s.versioner.UpdateObject(obj, rev); err != nil {
		return nil, fmt.Errorf("set resource version: %w", err)
	}
	return &objState{obj: obj, rev: rev, data: data}, nil
}

// start returns the state to begin with: the caller's suggestion, or what is stored.
func (r *reader) start(suggestion runtime.Object) (*objState, error) {
	if suggestion != nil && !r.wantCorrupt {
		return r.s.fromObject(suggestion)
	}
	return r.read()
}

// retry decides what to do after a check failed with err on st: if st may be out of date, the check has to be made
// again on what is stored. It returns that state, or the error that stands.
func (r *reader) retry(st *objState, err error) (*objState, error) {
	if st.fresh {
		return nil, err
	}
	now, readErr := r.read()
	if readErr != nil {
		return nil, readErr
	}
	if now.rev == st.rev {
		return nil, err // it was up to date after all
	}
	return now, nil
}

// Delete implements storage.Interface.
func (s *Storage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, suggestion runtime.Object, opts storage.DeleteOptions,
) error {
	key, err := s.prepareKey(key, false)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	r := &reader{s: s, ctx: ctx, key: key, v: v}
	r.wantCorrupt = opts.ExpectTransformOrDecodeError && utilfeature.DefaultFeatureGate.Enabled(features.AllowUnsafeMalformedObjectDeletion)
	st, err := r.start(suggestion)
	for err == nil {
		err := preconditions.Check(key, st.obj) // nil preconditions hold
		if err == nil {
			err = validate(ctx, st.obj)
		}
		if err != nil {
			if st, err = r.retry(st, err); err != nil {
				return err
			}
			continue
		}
		o := &op{kind: opDelete, key: key, expect: st.rev, storage: s}
		o.trigger.was, o.trigger.known = s.triggerValue(st.obj)
		o.trigger.is = o.trigger.was
		if st.rev == 0 {
			err = errConflict // a suggestion without a revision
		} else {
			err = s.write(ctx, "delete", o)
		}
		if errors.Is(err, errConflict) {
			if st, err = r.read(); err != nil {
				return err
			}
			continue
		}
		if err != nil || r.wantCorrupt {
			return err
		}
		_, err = s.decodeInto(st.data, o.rev, out)
		return err
	}
	return err
}

// GuaranteedUpdate implements storage.Interface.
func (s *Storage) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, suggestion runtime.Object,
) error {
	key, err := s.prepareKey(key, false)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	r := &reader{s: s, ctx: ctx, key: key, v: v, ignoreNotFound: ignoreNotFound}
	st, err := r.start(suggestion)
	for err == nil {
		var data []byte
		var ttl uint64
		err = preconditions.Check(key, st.obj)
		if err == nil {
			data, ttl, err = s.tryUpdate(st, tryUpdate)
		}
		if err != nil {
			st, err = r.retry(st, err)
			continue
		}
		if !st.stale && bytes.Equal(data, st.data) {
			if !st.fresh {
				// Nothing changes against the suggestion; that counts only if the suggestion was up to date.
				if st, err = r.read(); err != nil {
					return err
				}
				if st.stale || !bytes.Equal(data, st.data) {
					continue
				}
			}
			_, err = s.decodeInto(st.data, st.rev, out)
			return err
		}
		o, err := s.putOp(ctx, key, data, st.rev, ttl)
		if err != nil {
			return err
		}
		o.trigger = st.trigger
		err = s.write(ctx, "update", o)
		if err == nil {
			return s.setOut(o.event, data, out)
		}
		if !errors.Is(err, errConflict) {
			return err
		}
		if st, err = r.read(); err != nil {
			return err
		}
	}
	return err
}

// tryUpdate calls the caller's function and encodes what it returns.
func (s *Storage) tryUpdate(st *objState, f storage.UpdateFunc) (data []byte, ttl uint64, err error) {
	st.trigger.was, st.trigger.known = s.triggerValue(st.obj) // f may change the object
	obj, ttlp, err := f(st.obj, st.meta())
	if err != nil {
		return nil, 0, err
	}
	st.trigger.is, _ = s.triggerValue(obj)
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, 0, fmt.Errorf("prepare object for storage: %w", err)
	}
	if ttlp != nil {
		ttl = *ttlp
	}
	data, err = runtime.Encode(s.codec, obj)
	return data, ttl, err
}
