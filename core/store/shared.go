package store

import (
	"bytes"
	"io"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// sharedObject hands one decoded object to many watchers, and keeps its encodings: each form is encoded once, however
// many watchers get it.
type sharedObject struct {
	obj runtime.Object // never changed

	mu        sync.Mutex // guards encodings
	encodings map[runtime.Identifier]*encoding
}

type encoding struct {
	once sync.Once
	raw  []byte
	err  error
}

var (
	_ runtime.CacheableObject   = (*sharedObject)(nil)
	_ metav1.ObjectMetaAccessor = (*sharedObject)(nil)
)

// CacheEncode implements runtime.CacheableObject.
func (o *sharedObject) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	o.mu.Lock()
	e := o.encodings[id]
	if e == nil {
		if o.encodings == nil {
			o.encodings = map[runtime.Identifier]*encoding{}
		}
		e = &encoding{}
		o.encodings[id] = e
	}
	o.mu.Unlock()
	e.once.Do(func() {
		var buf bytes.Buffer
		// Encoding sets the kind of what it encodes for a moment, so it gets a copy of the top level.
		e.err = encode(topCopy(o.obj), &buf)
		e.raw = buf.Bytes()
	})
	if e.err != nil {
		return e.err
	}
	if s, ok := w.(runtime.Splice); ok {
		s.Splice(e.raw)
		return nil
	}
	_, err := w.Write(e.raw)
	return err
}

// GetObject implements runtime.CacheableObject: the copy belongs to the caller.
func (o *sharedObject) GetObject() runtime.Object { return o.obj.DeepCopyObject() }

// GetObjectKind implements runtime.Object.
func (o *sharedObject) GetObjectKind() schema.ObjectKind { return topCopy(o.obj).GetObjectKind() }

// DeepCopyObject implements runtime.Object.
func (o *sharedObject) DeepCopyObject() runtime.Object {
	return &sharedObject{obj: o.obj.DeepCopyObject()}
}

// GetObjectMeta implements metav1.ObjectMetaAccessor, for reading.
func (o *sharedObject) GetObjectMeta() metav1.Object {
	m, err := meta.Accessor(topCopy(o.obj))
	if err != nil {
		return nil
	}
	return m
}

// topCopy returns a copy whose top-level fields (of struct types, with them the whole ObjectMeta struct) may be set
// without changing obj. What they point to is shared. Unstructured objects have no top level apart from a map.
func topCopy(obj runtime.Object) runtime.Object {
	v := reflect.ValueOf(obj)
	if _, ok := obj.(runtime.Unstructured); ok || v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return obj.DeepCopyObject()
	}
	c := reflect.New(v.Elem().Type())
	c.Elem().Set(v.Elem())
	return c.Interface().(runtime.Object)
}
