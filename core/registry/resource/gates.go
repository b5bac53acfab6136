package resource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Gate is a feature that Kubernetes has not turned on by default, with the
// fields that only it gives a meaning. They are dropped from what clients
// write, unless the object uses the feature already: so does upstream, and so
// the same manifest makes the same object with both.
type Gate struct {
	// Feature is the name of the feature gate.
	Feature string
	// Fields are paths of JSON names: "spec.volumes[].emptyDir.mode". A step
	// goes into each element of a list with [], and into each value of a map
	// with {}. What a step with ? leads to goes too when nothing is left in it,
	// what a step with ! leads to goes in any case.
	Fields []string
}

// Under gives the gates with their fields below another path.
func Under(path string, gates []Gate) []Gate {
	moved := make([]Gate, len(gates))
	for i, g := range gates {
		moved[i].Feature = g.Feature
		for _, f := range g.Fields {
			moved[i].Fields = append(moved[i].Fields, path+"."+f)
		}
	}
	return moved
}

// gateStep is a field on the way to gated ones: a tree for all gates of a kind,
// so that one walk over an object finds all.
type gateStep struct {
	name     string
	index    []int // of the field in its struct
	each     bool  // goes into elements of a list or values of a map
	prune    bool  // goes when it becomes empty
	whole    bool  // goes with what is below
	features uint64
	next     []*gateStep
}

// gateTree is made of a kind's gates when the kind is written for the first time.
type gateTree struct {
	once sync.Once
	root gateStep
}

// DropGated drops the fields of features that are off and that old does not use. Old is nil on create.
func (d *Definition[T]) DropGated(obj, old T) {
	if len(d.Gates) == 0 {
		return
	}
	d.gates.once.Do(func() { d.gates.root = compileGates(reflect.TypeOf(obj), d.Gates) })
	v := reflect.ValueOf(obj)
	used := gatesUsed(v, &d.gates.root)
	if used == 0 {
		return
	}
	if before := reflect.ValueOf(old); before.IsValid() && !before.IsNil() {
		used &^= gatesUsed(before, &d.gates.root)
	}
	dropGates(v, &d.gates.root, used)
}

// compileGates panics for a path that the type has not: tables are part of the program.
func compileGates(t reflect.Type, gates []Gate) gateStep {
	var root gateStep
	for i, g := range gates {
		for _, path := range g.Fields {
			at, in := &root, t
			for name := range strings.SplitSeq(path, ".") {
				at, in = at.step(name, in, path)
			}
			at.features |= 1 << i
		}
	}
	return root
}

func (s *gateStep) step(name string, in reflect.Type, path string) (*gateStep, reflect.Type) {
	for in.Kind() == reflect.Pointer {
		in = in.Elem()
	}
	bare := strings.TrimRight(name, "[]{}?!")
	f, ok := reflect.StructField{}, false
	if in.Kind() == reflect.Struct {
		f, ok = in.FieldByNameFunc(func(n string) bool {
			sf, _ := in.FieldByName(n)
			tag, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
			return tag == bare
		})
	}
	each := strings.ContainsAny(name, "[{")
	if !ok || each && f.Type.Kind() != reflect.Slice && f.Type.Kind() != reflect.Map {
		panic(fmt.Sprintf("gated field %q: %s has no %s", path, in, name))
	}
	out := f.Type
	if each {
		out = out.Elem()
	}
	if i := slices.IndexFunc(s.next, func(n *gateStep) bool { return n.name == name }); i >= 0 {
		return s.next[i], out
	}
	child := &gateStep{name: name, index: f.Index, each: each, prune: strings.HasSuffix(name, "?"), whole: strings.HasSuffix(name, "!")}
	s.next = append(s.next, child)
	return child, out
}

// gatesUsed are the features, a bit for each gate, of which v has a field.
func gatesUsed(v reflect.Value, s *gateStep) (used uint64) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return 0
		}
		v = v.Elem()
	}
	for _, n := range s.next {
		f := v.FieldByIndex(n.index)
		if f.IsZero() {
			continue
		}
		used |= n.features
		switch {
		case len(n.next) == 0:
		case !n.each:
			used |= gatesUsed(f, n)
		case f.Kind() == reflect.Map:
			for it := f.MapRange(); it.Next(); {
				used |= gatesUsed(it.Value(), n)
			}
		default:
			for i := range f.Len() {
				used |= gatesUsed(f.Index(i), n)
			}
		}
	}
	return used
}

// dropGates clears the fields of the features in v.
func dropGates(v reflect.Value, s *gateStep, features uint64) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	for _, n := range s.next {
		f := v.FieldByIndex(n.index)
		if n.features&features != 0 || n.whole && gatesUsed(f, n)&features != 0 {
			f.SetZero()
		}
		switch {
		case f.IsZero() || len(n.next) == 0 || features == 0:
		case !n.each:
			dropGates(f, n, features)
			if n.prune && f.Kind() == reflect.Pointer && f.Elem().IsZero() {
				f.SetZero()
			}
		case f.Kind() == reflect.Map: // whose values cannot be changed in place
			for _, key := range f.MapKeys() {
				value := reflect.New(f.Type().Elem()).Elem()
				value.Set(f.MapIndex(key))
				dropGates(value, n, features)
				f.SetMapIndex(key, value)
			}
		default:
			for i := range f.Len() {
				dropGates(f.Index(i), n, features)
			}
		}
	}
}
