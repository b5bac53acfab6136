package store

import (
	"context"
	"io"
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
)

// Loan is how Storage.Get hands out an object that is only encoded: without the copy
// that its caller would own.
type Loan struct {
	// Object is the object, a runtime.CacheableObject; nil if Get had none at hand.
	Object runtime.Object
}

type loanKey struct{}

// WithLoan has Get leave its object in l, if it is in the cache. What Get was given to
// fill then shares memory with the cache: it may be read, and not be changed.
func WithLoan(ctx context.Context, l *Loan) context.Context {
	return context.WithValue(ctx, loanKey{}, l)
}

// handOut gives a cached object, which has the type of out, to who asked for it.
func handOut(ctx context.Context, obj, out runtime.Object) error {
	l, _ := ctx.Value(loanKey{}).(*Loan)
	_, untyped := obj.(runtime.Unstructured)
	if l == nil || untyped {
		return copyInto(obj, out)
	}
	l.Object = &lentObject{sharedObject{obj: obj}}
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(obj).Elem())
	return nil
}

// lentObject is encoded once, so its encoding is not kept.
type lentObject struct{ sharedObject }

var _ runtime.CacheableObject = (*lentObject)(nil)

// CacheEncode implements runtime.CacheableObject.
func (o *lentObject) CacheEncode(_ runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	return encode(topCopy(o.obj), w) // encoding sets the kind for a moment
}
