package store

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

type eventKind byte

const (
	eventAdded eventKind = iota
	eventModified
	eventDeleted
	eventBookmark
)

// event is one change as one resource's watchers see it. Objects are decoded when the first watcher needs them, once
// for all.
type event struct {
	s          *Storage
	kind       eventKind
	initialEnd bool // a bookmark that ends the initial events
	key        string
	rev        uint64
	prev       uint64 // revision of the version before
	value      []byte // stored bytes of the new version; nil means they have to be read
	plain      []byte // value before the transformer, if known

	cur decoded // the new version
	old decoded // the version before, carrying rev
}

// decoded is an object that is made when it is first asked for.
type decoded struct {
	once   sync.Once
	obj    runtime.Object
	err    error
	shared *sharedObject
	base   runtime.Object // the version before as it was, if it was at hand when the change was made

	attrsOnce sync.Once
	labels    labels.Set
	fields    fields.Set
	attrsErr  error
}

// newEvent makes the event of a change that was just committed.
func (s *Storage) newEvent(c *pending) *event {
	r := &c.record
	e := &event{s: s, key: r.key, rev: r.rev, prev: r.prev, value: r.value, kind: eventModified}
	switch {
	case r.kind == recordDelete:
		e.kind = eventDeleted
	case r.prev == 0:
		e.kind = eventAdded
	}
	if s == c.op.storage {
		e.plain = c.op.plain
	}
	if r.prev != 0 {
		e.old.base = s.db.cache.take(s, r.prev)
	}
	return e
}

// current returns the new version.
func (e *event) current() *decoded {
	e.cur.once.Do(func() {
		e.cur.obj, e.cur.err = e.decodeCurrent()
		e.cur.shared = &sharedObject{obj: e.cur.obj}
	})
	return &e.cur
}

func (e *event) decodeCurrent() (runtime.Object, error) {
	if obj := e.s.db.cache.get(e.s, e.rev); obj != nil {
		return obj, nil
	}
	if e.plain == nil {
		return e.s.loadObject(e.key, e.rev, e.value)
	}
	obj, err := e.s.decode(e.plain, e.rev)
	if err == nil {
		e.s.db.cache.addWritten(e.s, e.rev, obj, len(e.plain))
	}
	return obj, err
}

// previous returns the version before, with the revision of this event: that is how watchers get deleted objects.
func (e *event) previous() *decoded {
	e.old.once.Do(func() {
		e.old.obj, e.old.err = e.decodePrevious()
		e.old.shared = &sharedObject{obj: e.old.obj}
	})
	return &e.old
}

func (e *event) decodePrevious() (runtime.Object, error) {
	base := e.old.base
	if base == nil {
		base = e.s.db.cache.get(e.s, e.prev)
	}
	if base == nil {
		var err error
		if base, err = e.s.readObject(e.key, e.prev); err != nil {
			var corrupt *corruptObjectError
			if e.kind == eventDeleted && errors.As(err, &corrupt) {
				err = &corruptDeletedError{err: corrupt}
			}
			return nil, err
		}
	}
	e.old.base = nil
	obj := topCopy(base)
	if err := e.s.versioner.UpdateObject(obj, e.rev); err != nil {
		return nil, fmt.Errorf("set revision %d of %s: %w", e.rev, e.key, err)
	}
	return obj, nil
}

// attrs returns what the selectors look at.
func (d *decoded) attrs(s *Storage) (labels.Set, fields.Set, error) {
	d.attrsOnce.Do(func() { d.labels, d.fields, d.attrsErr = s.getAttrs(d.obj) })
	return d.labels, d.fields, d.attrsErr
}

// loadObject returns a version of an object, from the cache or decoded and then cached. value may hold its stored bytes.
func (s *Storage) loadObject(key string, rev uint64, value []byte) (runtime.Object, error) {
	if obj := s.db.cache.get(s, rev); obj != nil {
		return obj, nil
	}
	if value == nil {
		var err error
		if value, err = s.readStored(key, rev); err != nil {
			return nil, err
		}
	}
	obj, err := s.decodeStored(key, rev, value)
	if err == nil {
		s.db.cache.add(s, rev, obj, len(value))
	}
	return obj, err
}

// readObject is loadObject for versions that are not current, which the cache is not for.
func (s *Storage) readObject(key string, rev uint64) (runtime.Object, error) {
	value, err := s.readStored(key, rev)
	if err != nil {
		return nil, err
	}
	return s.decodeStored(key, rev, value)
}

func (s *Storage) readStored(key string, rev uint64) (value []byte, err error) {
	err = s.db.view(func(txn *badger.Txn) error {
		value, err = s.db.readValue(txn, key, rev)
		return err
	})
	return value, err
}

func (s *Storage) decodeStored(key string, rev uint64, value []byte) (runtime.Object, error) {
	data, _, err := s.transformer.TransformFromStorage(s.db.ctx, value, authData(key))
	if err != nil {
		return nil, err
	}
	return s.decode(data, rev)
}
