package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// judge is a kind that can be asked about an object.
type judge interface {
	Judge(context.Context, runtime.Object) field.ErrorList
	Version() schema.GroupVersion
}

// judged gives the kinds that store objects, with an empty object of each.
func judged(t testing.TB) (all []judge, objects []runtime.Object) {
	for _, k := range kinds {
		j, ok := k.(judge)
		if !ok {
			continue
		}
		made := reflect.ValueOf(k).Elem().FieldByName("New").Call(nil)[0].Interface().(runtime.Object)
		all, objects = append(all, j), append(objects, made)
	}
	if len(all) < 30 {
		t.Fatalf("got %d kinds, expected all", len(all))
	}
	return all, objects
}

// TestAnyInput feeds each kind with objects of which parts are missing, null,
// of another type, huge or nested: it may refuse them, but not panic.
func TestAnyInput(t *testing.T) {
	kinds, objects := judged(t)
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for i, k := range kinds {
		t.Run(fmt.Sprintf("%T", objects[i])[1:], func(t *testing.T) {
			for seed := range rounds {
				feed(t, k, objects[i], int64(seed))
			}
		})
	}
}

// FuzzAnyInput is TestAnyInput for any number and kind.
func FuzzAnyInput(f *testing.F) {
	kinds, objects := judged(f)
	for i := range kinds {
		f.Add(int64(i), uint8(i))
	}
	f.Fuzz(func(t *testing.T, seed int64, kind uint8) {
		i := int(kind) % len(kinds)
		feed(t, kinds[i], objects[i], seed)
	})
}

func feed(t *testing.T, k judge, empty runtime.Object, seed int64) {
	r := rand.New(rand.NewSource(seed))
	obj := reflect.New(reflect.TypeOf(empty).Elem())
	if seed%4 != 0 { // else it begins with nothing
		fill(obj.Elem(), r, 0)
	}
	text, err := json.Marshal(obj.Interface())
	if err != nil {
		t.Fatal(err)
	}
	var parts map[string]any
	if err := json.Unmarshal(text, &parts); err != nil {
		t.Fatal(err)
	}
	gvks, _, err := Scheme.ObjectKinds(empty)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(gvks, func(g schema.GroupVersionKind) bool { return g.GroupVersion() == k.Version() })
	if i < 0 {
		t.Fatalf("%T is not in %s", empty, k.Version())
	}
	var broken any = parts
	for range r.Intn(5) {
		broken = mutate(broken, r, 0)
	}
	m, ok := broken.(map[string]any)
	if !ok {
		m = map[string]any{"spec": broken}
	}
	m["apiVersion"], m["kind"] = k.Version().String(), gvks[i].Kind
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("seed %d panics with %v on %.2000s", seed, p, body)
			panic(p)
		}
	}()
	decoded, _, err := Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return // refused already
	}
	Scheme.Default(decoded)
	_ = k.Judge(request.WithNamespace(t.Context(), "default"), decoded)
}

// mutate changes one part of a JSON value, anywhere in it.
func mutate(v any, r *rand.Rand, depth int) any {
	if r.Intn(6) == 0 && depth > 0 {
		return oddValue(r)
	}
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return oddValue(r)
		}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys) // so that a seed says all
		key := keys[r.Intn(len(keys))]
		if r.Intn(8) == 0 {
			delete(v, key)
			return v
		}
		v[key] = mutate(v[key], r, depth+1)
		return v
	case []any:
		if len(v) == 0 || r.Intn(5) == 0 {
			return append(v, oddValue(r))
		}
		i := r.Intn(len(v))
		v[i] = mutate(v[i], r, depth+1)
		return v
	}
	return oddValue(r)
}

func oddValue(r *rand.Rand) any {
	odd := []any{nil, "", "x", "a/b/c", "-1", "..", "\x00\uffff", strings.Repeat("a", 1000), -1, 0, 1, 1 << 31, int64(1) << 62, -1 << 31, 1e300, 1.5, true, false,
		[]any{}, []any{nil}, map[string]any{}, map[string]any{"": ""}, map[string]any{"a": nil}, "999999999999999999999999", "1e999", "2020-01-01T00:00:00Z", "10%", "::1", "100m"}
	if n := r.Intn(len(odd) + 1); n < len(odd) {
		return odd[n]
	}
	var deep any = map[string]any{}
	for range 200 {
		deep = map[string]any{"a": []any{deep}}
	}
	return deep
}
