package ownedfields

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Created returns the fields that belong to who creates an object, in the form of
// FieldsV1: what the library's field manager finds by comparing it with an empty
// one. Top-level fields in without are left out. It is false for an object it
// cannot do; the library can.
func (c *Converter) Created(obj runtime.Object, without []string) ([]byte, bool) {
	plain, err := c.plain()
	if err != nil {
		return nil, false
	}
	t, err := c.typeOf(plain, obj)
	if err != nil {
		return nil, false
	}
	t.planOnce.Do(func() { t.plan = newPlanner(t.schema).plan(reflect.TypeOf(obj).Elem(), t.ref) })
	v := reflect.ValueOf(obj)
	if t.plan.kind != planStruct || v.IsNil() {
		return nil, false
	}
	w := writers.Get().(*writer)
	defer writers.Put(w)
	w.buf, w.without, w.bad, w.more = w.buf[:0], without, false, false
	w.root(t.plan, v.Elem())
	if w.bad {
		return nil, false
	}
	return bytes.Clone(w.buf), true
}

// writers are kept with their buffers: most sets are of a few kilobytes.
var writers = sync.Pool{New: func() any { return &writer{buf: make([]byte, 0, 4096)} }}

// stripped are the fields of metadata that belong to nobody.
var stripped = []string{
	"name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion",
}

// writer writes a set of fields as the library does: members of a struct in the
// order of their names, then list items in the order of their keys.
type writer struct {
	buf     []byte
	without []string
	bad     bool // the library has to do it
	more    bool // there is something before in the object at hand
}

func (w *writer) open() {
	w.buf = append(w.buf, '{')
	w.more = false
}

func (w *writer) close() {
	w.buf = append(w.buf, '}')
	w.more = true
}

// key writes the name of a member of the object at hand.
func (w *writer) key(prefix, s string) {
	if w.more {
		w.buf = append(w.buf, ',')
	}
	w.more = true
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, prefix...)
	done := 0
	for i := range len(s) {
		switch b := s[i]; {
		case b < ' ' || b > '~':
			w.bad = true
		case b == '"' || b == '\\':
			w.buf = append(append(w.buf, s[done:i]...), '\\')
			done = i
		}
	}
	w.buf = append(w.buf, s[done:]...)
	w.buf = append(w.buf, '"', ':')
}

func (w *writer) leaf() { w.buf = append(w.buf, "{}"...) }

// root writes the set of a whole object.
func (w *writer) root(p *plan, v reflect.Value) {
	w.open()
	for i := range p.fields {
		f := &p.fields[i]
		switch {
		case f.name == "apiVersion" || f.name == "kind" || slices.Contains(w.without, f.name):
		case f.name == "metadata" && f.plan.kind == planStruct:
			w.changed(f, v, stripped)
		default:
			w.changed(f, v, nil)
		}
	}
	w.close()
}

// changed writes a field of a struct that exists, empty, in the object compared
// with.
func (w *writer) changed(f *field, in reflect.Value, strip []string) {
	v, omitted := f.from(in)
	if omitted {
		return
	}
	if f.omitEmpty { // it is not there in an empty struct
		w.key("f:", f.name)
		w.added(f.plan, v)
		return
	}
	// It is there in an empty one: a struct, or null, or a zero.
	pointer := v.Kind() == reflect.Pointer
	if v, ok := follow(v); ok && f.plan.kind == planStruct && !pointer {
		w.inside(f, func() {
			for i := range f.plan.fields {
				if c := &f.plan.fields[i]; !slices.Contains(strip, c.name) {
					w.changed(c, v, nil)
				}
			}
		})
		return
	}
	if v.IsZero() {
		return
	}
	v, _ = follow(v)
	if f.plan.kind == planLeaf {
		w.key("f:", f.name)
		w.leaf()
		return
	}
	if empty(v) { // null became empty: rare enough for the library
		w.bad = true
		return
	}
	w.inside(f, func() { w.members(f.plan, v) })
}

// inside writes a field with what f writes in it, or nothing if that is nothing.
func (w *writer) inside(f *field, write func()) {
	start, more := len(w.buf), w.more
	w.key("f:", f.name)
	w.open()
	write()
	if !w.more {
		w.buf, w.more = w.buf[:start], more
		return
	}
	w.close()
}

// added writes a value that is not there in the object compared with.
func (w *writer) added(p *plan, v reflect.Value) {
	v, ok := follow(v)
	if !ok || p.kind == planLeaf || empty(v) || p.kind == planStruct && p.nothing(v) {
		w.leaf()
		return
	}
	w.open()
	w.buf = append(w.buf, `".":{}`...)
	w.more = true
	w.members(p, v)
	w.close()
}

// stringMap is the type of most maps: of labels, annotations and data.
var stringMap = reflect.TypeFor[map[string]string]()

// members writes what is in a struct, map or list, all of which is new.
func (w *writer) members(p *plan, v reflect.Value) {
	switch p.kind {
	case planStruct:
		for i := range p.fields {
			f := &p.fields[i]
			if c, omitted := f.from(v); !omitted {
				w.key("f:", f.name)
				w.added(f.plan, c)
			}
		}
	case planMap:
		if p.elem.kind == planLeaf && v.Type() == stringMap {
			for _, k := range slices.Sorted(maps.Keys(v.Interface().(map[string]string))) {
				w.key("f:", k)
				w.leaf()
			}
			return
		}
		for _, k := range sortedKeys(v) {
			w.key("f:", k.String())
			w.added(p.elem, v.MapIndex(k))
		}
	case planKeyed, planSet:
		w.items(p, v)
	default:
		w.bad = true
	}
}

// items writes the items of a list that have keys, or are their own.
func (w *writer) items(p *plan, v reflect.Value) {
	type item struct {
		name fieldpath.PathElement
		v    reflect.Value
	}
	items := make([]item, 0, v.Len())
	for i := range v.Len() {
		name, ok := p.name(v.Index(i))
		if !ok {
			w.bad = true
			return
		}
		items = append(items, item{name, v.Index(i)})
	}
	slices.SortFunc(items, func(a, b item) int { return a.name.Compare(b.name) })
	for i := range items {
		if i > 0 && items[i].name.Equals(items[i-1].name) { // the library has rules of its own for doubles
			w.bad = true
			return
		}
		s, err := fieldpath.SerializePathElement(items[i].name)
		if err != nil {
			w.bad = true
			return
		}
		w.key("", s)
		w.added(p.elem, items[i].v)
	}
}

// name is by what an item of a list is known.
func (p *plan) name(v reflect.Value) (fieldpath.PathElement, bool) {
	if p.kind == planSet {
		if v.Kind() != reflect.String {
			return fieldpath.PathElement{}, false
		}
		own := value.NewValueInterface(v.String())
		return fieldpath.PathElement{Value: &own}, true
	}
	v, ok := follow(v)
	if !ok {
		return fieldpath.PathElement{}, false
	}
	keys := make(value.FieldList, 0, len(p.keys))
	for _, k := range p.keys {
		c := k.entry.GetFrom(v)
		of := k.missing
		if !k.entry.CanOmit(c) {
			if c, ok = follow(c); !ok {
				return fieldpath.PathElement{}, false
			}
			switch {
			case c.Kind() == reflect.String:
				of = c.String()
			case c.CanInt():
				of = c.Int()
			default:
				return fieldpath.PathElement{}, false
			}
		}
		if of != nil {
			keys = append(keys, value.Field{Name: k.name, Value: value.NewValueInterface(of)})
		}
	}
	keys.Sort()
	return fieldpath.PathElement{Key: &keys}, len(keys) > 0
}

// follow goes to where a pointer points; it is false if there is nothing.
func follow(v reflect.Value) (reflect.Value, bool) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return v, false
		}
		v = v.Elem()
	}
	return v, true
}

// empty tells of lists and maps without items.
func empty(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

// sortedKeys are the keys of a map of strings.
func sortedKeys(v reflect.Value) []reflect.Value {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		switch x, y := a.String(), b.String(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return keys
}
