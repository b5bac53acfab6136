package ownedfields

import (
	"fmt"
	"reflect"

	"sigs.k8s.io/structured-merge-diff/v6/value"

	"keelson.dev/keelson/core/internal/same"
)

// structValue is the library's value of a struct, whose map skips equal fields.
type structValue struct {
	value.Value
	at reflect.Value // the struct, addressable
}

var _ value.Value = (*structValue)(nil)

// newValue makes the value of a pointer to a struct.
func newValue(pointer any) (value.Value, error) {
	v := reflect.ValueOf(pointer)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("%T is no pointer to a struct", pointer)
	}
	plain, err := value.NewValueReflect(pointer)
	if err != nil {
		return nil, err
	}
	if value.TypeReflectEntryOf(v.Type()).CanConvertToUnstructured() {
		return plain, nil // it has a form of its own, as times and quantities do
	}
	return &structValue{Value: plain, at: v.Elem()}, nil
}

// fieldValue makes the value of a struct's field.
func fieldValue(field reflect.Value) value.Value {
	p := field
	switch {
	case field.Kind() != reflect.Pointer:
		p = field.Addr()
	case field.IsNil():
		return value.NewValueInterface(nil)
	}
	if p.Elem().Kind() == reflect.Struct {
		if v, err := newValue(p.Interface()); err == nil {
			return v
		}
	}
	v, err := value.NewValueReflect(p.Interface())
	if err != nil { // cannot be: it is a pointer
		panic(fmt.Sprintf("value of %s: %v", p.Type(), err))
	}
	return v
}

// AsMap implements value.Value.
func (v *structValue) AsMap() value.Map { return &structMap{Map: v.Value.AsMap(), at: v.at} }

// AsMapUsing implements value.Value.
func (v *structValue) AsMapUsing(value.Allocator) value.Map { return v.AsMap() }

// structMap is the library's map of a struct, whose Zip skips equal fields.
type structMap struct {
	value.Map
	at reflect.Value
}

var _ value.Map = (*structMap)(nil)

// Zip implements value.Map.
func (m *structMap) Zip(other value.Map, order value.MapTraverseOrder, fn func(key string, lhs, rhs value.Value) bool) bool {
	return m.ZipUsing(value.HeapAllocator, other, order, fn)
}

// ZipUsing implements value.Map. Equal fields are left out in any order only: of
// all callers just the comparison of two objects, which would find nothing in
// them, uses it so.
func (m *structMap) ZipUsing(a value.Allocator, other value.Map, order value.MapTraverseOrder, fn func(key string, lhs, rhs value.Value) bool) bool {
	o, ok := other.(*structMap)
	if !ok || order != value.Unordered || m.at.Type() != o.at.Type() {
		return m.Map.ZipUsing(a, other, order, fn)
	}
	for _, f := range value.TypeReflectEntryOf(m.at.Type()).OrderedFields() {
		l, r := f.GetFrom(m.at), f.GetFrom(o.at)
		if same.Values(l, r) {
			continue
		}
		var lv, rv value.Value
		if !f.CanOmit(l) {
			lv = fieldValue(l)
		}
		if !f.CanOmit(r) {
			rv = fieldValue(r)
		}
		if (lv != nil || rv != nil) && !fn(f.JsonName, lv, rv) {
			return false
		}
	}
	return true
}
