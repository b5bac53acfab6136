package same

import (
	"reflect"
	"sync"
	"unsafe"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// equal tells whether what two pointers of one type point to is the same, as
// reflect.DeepEqual does but stricter: it may say no where that says yes.
type equal func(p, q unsafe.Pointer) bool

var equals sync.Map // by reflect.Type: equal

// Values tells whether two addressable values of one type are the same. It is stricter
// than reflect.DeepEqual: it may say no where that says yes.
func Values(a, b reflect.Value) bool {
	return equalOf(a.Type())(a.Addr().UnsafePointer(), b.Addr().UnsafePointer())
}

// Pointed is Values of what two pointers point to.
func Pointed[T any](a, b *T) bool {
	return a == b || a != nil && b != nil && Values(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem())
}

// Semantic is apiequality.Semantic.DeepEqual, and quick where two pointers point to
// values that are the same.
func Semantic(a, b any) bool {
	v, w := reflect.ValueOf(a), reflect.ValueOf(b)
	if v.Kind() == reflect.Pointer && w.Kind() == reflect.Pointer && v.Type() == w.Type() && !v.IsNil() && !w.IsNil() && Values(v.Elem(), w.Elem()) {
		return true
	}
	return apiequality.Semantic.DeepEqual(a, b)
}

// equalOf returns the comparison of a type, made when it is first asked for.
func equalOf(t reflect.Type) equal {
	if f, ok := equals.Load(t); ok {
		return f.(equal)
	}
	// A type may contain itself: what is made for its parts finds this one.
	var made equal
	once := sync.OnceFunc(func() { made = makeEqual(t) })
	f, _ := equals.LoadOrStore(t, equal(func(p, q unsafe.Pointer) bool { once(); return made(p, q) }))
	return f.(equal)
}

func compare[T comparable](p, q unsafe.Pointer) bool { return *(*T)(p) == *(*T)(q) }

func makeEqual(t reflect.Type) equal {
	switch t.Kind() {
	case reflect.Bool:
		return compare[bool]
	case reflect.Int8, reflect.Uint8:
		return compare[uint8]
	case reflect.Int16, reflect.Uint16:
		return compare[uint16]
	case reflect.Int32, reflect.Uint32:
		return compare[uint32]
	case reflect.Int64, reflect.Uint64:
		return compare[uint64]
	case reflect.Int, reflect.Uint, reflect.Uintptr:
		return compare[uint]
	case reflect.Float32:
		return compare[float32]
	case reflect.Float64:
		return compare[float64]
	case reflect.String:
		return compare[string]
	case reflect.Struct:
		return structEqual(t)
	case reflect.Slice:
		return sliceEqual(t)
	case reflect.Pointer:
		elem := equalOf(t.Elem())
		return func(p, q unsafe.Pointer) bool {
			a, b := *(*unsafe.Pointer)(p), *(*unsafe.Pointer)(q)
			return a == b || a != nil && b != nil && elem(a, b)
		}
	case reflect.Map:
		if t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String {
			return mapsEqual[string]
		}
		if t.Key().Kind() == reflect.String && t.Elem() == reflect.TypeFor[resource.Quantity]() {
			return mapsEqual[resource.Quantity]
		}
	}
	return func(p, q unsafe.Pointer) bool {
		return reflect.DeepEqual(reflect.NewAt(t, p).Elem().Interface(), reflect.NewAt(t, q).Elem().Interface())
	}
}

func structEqual(t reflect.Type) equal {
	type part struct {
		offset uintptr
		equal  equal
	}
	parts := make([]part, 0, t.NumField())
	for f := range t.Fields() {
		parts = append(parts, part{f.Offset, equalOf(f.Type)})
	}
	return func(p, q unsafe.Pointer) bool {
		for _, f := range parts {
			if !f.equal(unsafe.Add(p, f.offset), unsafe.Add(q, f.offset)) {
				return false
			}
		}
		return true
	}
}

func sliceEqual(t reflect.Type) equal {
	elem, size := equalOf(t.Elem()), t.Elem().Size()
	type header struct {
		data     unsafe.Pointer
		len, cap int
	}
	return func(p, q unsafe.Pointer) bool {
		a, b := (*header)(p), (*header)(q)
		if a.len != b.len || (a.data == nil) != (b.data == nil) {
			return false
		}
		if a.data == b.data {
			return true
		}
		for i := range a.len {
			at := uintptr(i) * size
			if !elem(unsafe.Add(a.data, at), unsafe.Add(b.data, at)) {
				return false
			}
		}
		return true
	}
}

// mapsEqual compares maps of strings, of whatever named types: these have the same
// form in memory.
func mapsEqual[V comparable](p, q unsafe.Pointer) bool {
	a, b := *(*map[string]V)(p), *(*map[string]V)(q)
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}
