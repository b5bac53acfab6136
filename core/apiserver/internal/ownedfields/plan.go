package ownedfields

import (
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

type planKind byte

const (
	planBad    planKind = iota // the library has to do it
	planLeaf                   // owned as a whole
	planStruct                 // owned field by field
	planMap                    // owned key by key
	planKeyed                  // a list owned item by item, known by keys
	planSet                    // a list of values
)

// plan is how a Go type is owned by the schema, found out once.
type plan struct {
	kind   planKind
	fields []field // of a struct, by name
	elem   *plan   // of a map or list
	keys   []key   // of a keyed list's items
}

// field is one JSON field of a struct.
type field struct {
	name      string
	entry     *value.FieldCacheEntry
	index     int // in the struct, -1 for a field of one that is embedded
	plan      *plan
	omitEmpty bool // it is left out of an empty struct
}

// from returns the field's value in a struct, and whether it is left out. Most are
// zero, and are as in an empty struct then.
func (f *field) from(in reflect.Value) (v reflect.Value, omitted bool) {
	if f.index < 0 {
		v = f.entry.GetFrom(in)
	} else {
		v = in.Field(f.index)
	}
	zero := false
	switch v.Kind() {
	case reflect.String:
		zero = v.Len() == 0
	case reflect.Pointer, reflect.Map, reflect.Slice:
		zero = v.IsNil()
	case reflect.Bool:
		zero = !v.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		zero = v.Int() == 0
	}
	if zero {
		return v, f.omitEmpty
	}
	return v, f.entry.CanOmit(v)
}

// indexOf finds the field of a struct that has a name in JSON, -1 if it has none itself.
func indexOf(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); tag == name && !t.Field(i).Anonymous {
			return i
		}
	}
	return -1
}

// key is one of the fields by which a list's items are known.
type key struct {
	name    string
	entry   *value.FieldCacheEntry
	missing any // its value when it is not set, nil for none
}

// nothing tells whether no field of a struct is set.
func (p *plan) nothing(v reflect.Value) bool {
	for i := range p.fields {
		if _, omitted := p.fields[i].from(v); !omitted {
			return false
		}
	}
	return true
}

type planner struct {
	schema *smdschema.Schema
	made   map[plannedType]*plan
}

type plannedType struct {
	t    reflect.Type
	name string // of the type in the schema
}

func newPlanner(s *smdschema.Schema) *planner {
	return &planner{schema: s, made: map[plannedType]*plan{}}
}

// scalars are structs that are written as one value, or as null.
var scalars = map[reflect.Type]bool{
	reflect.TypeFor[intstr.IntOrString](): true, reflect.TypeFor[resource.Quantity](): true,
	reflect.TypeFor[metav1.Time](): true, reflect.TypeFor[metav1.MicroTime](): true,
}

var bad, leaf = &plan{kind: planBad}, &plan{kind: planLeaf}

func (b *planner) plan(t reflect.Type, ref smdschema.TypeRef) *plan {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	atom, ok := b.schema.Resolve(ref)
	if !ok {
		return bad
	}
	if own := value.TypeReflectEntryOf(reflect.PointerTo(t)); own.CanConvertToUnstructured() {
		if atom.Scalar == nil || (atom.Map != nil || atom.List != nil) && !scalars[t] {
			return bad
		}
		return leaf
	}
	switch t.Kind() {
	case reflect.Struct:
		return b.structPlan(t, ref, atom.Map)
	case reflect.Map:
		if atom.Map == nil || len(atom.Map.Fields) > 0 || t.Key().Kind() != reflect.String {
			return bad
		}
		if atom.Map.ElementRelationship == smdschema.Atomic {
			return leaf
		}
		return &plan{kind: planMap, elem: b.plan(t.Elem(), atom.Map.ElementType)}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 {
			return b.listPlan(t, atom.List)
		}
	case reflect.Interface, reflect.Array, reflect.Func, reflect.Chan:
		return bad
	}
	if atom.Scalar == nil {
		return bad
	}
	return leaf
}

func (b *planner) structPlan(t reflect.Type, ref smdschema.TypeRef, m *smdschema.Map) *plan {
	if m == nil || ref.NamedType == nil {
		return bad
	}
	if m.ElementRelationship == smdschema.Atomic {
		return leaf
	}
	id := plannedType{t, *ref.NamedType}
	if p := b.made[id]; p != nil {
		return p // perhaps not finished: a type may contain itself
	}
	p := &plan{kind: planStruct}
	b.made[id] = p
	zero := reflect.New(t).Elem()
	for _, e := range value.TypeReflectEntryOf(t).OrderedFields() {
		of := m.ElementType
		if f, ok := m.FindField(e.JsonName); ok {
			of = f.Type
		}
		at := e.GetFrom(zero)
		p.fields = append(p.fields, field{
			name: e.JsonName, entry: e, index: indexOf(t, e.JsonName), plan: b.plan(at.Type(), of), omitEmpty: e.CanOmit(at),
		})
	}
	slices.SortFunc(p.fields, func(x, y field) int { return strings.Compare(x.name, y.name) })
	return p
}

func (b *planner) listPlan(t reflect.Type, l *smdschema.List) *plan {
	switch {
	case l == nil:
		return bad
	case l.ElementRelationship == smdschema.Atomic:
		return leaf
	case len(l.Keys) == 0:
		return &plan{kind: planSet, elem: b.plan(t.Elem(), l.ElementType)}
	}
	item := t.Elem()
	for item.Kind() == reflect.Pointer {
		item = item.Elem()
	}
	atom, ok := b.schema.Resolve(l.ElementType)
	if !ok || atom.Map == nil || item.Kind() != reflect.Struct {
		return bad
	}
	p := &plan{kind: planKeyed, elem: b.plan(item, l.ElementType)}
	for _, name := range l.Keys {
		entry := value.TypeReflectEntryOf(item).Fields()[name]
		f, _ := atom.Map.FindField(name)
		if entry == nil {
			return bad
		}
		p.keys = append(p.keys, key{name: name, entry: entry, missing: f.Default})
	}
	return p
}
