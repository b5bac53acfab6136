package ownedfields

import (
	"encoding/json"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/internal/same"
	"keelson.dev/keelson/core/registry/openapi"
	registry "keelson.dev/keelson/core/registry/resource"
)

var samples = []runtime.Object{
	&corev1.Pod{}, &corev1.Node{}, &corev1.ConfigMap{}, &corev1.Service{}, &corev1.Event{}, &appsv1.Deployment{}, &discoveryv1.EndpointSlice{},
}

// fill sets the fields of v to random values of few choices.
func fill(v reflect.Value, r *rand.Rand, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		*p = metav1.NewTime(time.Unix(1_700_000_000+r.Int63n(3), 0))
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(time.Unix(1_700_000_000+r.Int63n(3), 0))
		return
	case *resource.Quantity:
		*p = *resource.NewMilliQuantity(r.Int63n(3), resource.DecimalSI)
		return
	case *intstr.IntOrString:
		*p = intstr.FromInt32(r.Int31n(3))
		return
	case *runtime.RawExtension, *metav1.TypeMeta, *[]metav1.ManagedFieldsEntry:
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"", "a", "b", "c"}[r.Intn(4)])
	case reflect.Bool:
		v.SetBool(r.Intn(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Intn(3)))
	case reflect.Uint8:
		v.SetUint(uint64(r.Intn(3)))
	case reflect.Pointer:
		if depth > 0 && r.Intn(2) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), r, depth-1)
		}
	case reflect.Slice:
		if n := r.Intn(4); depth > 0 && n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n)) // empty ones are not nil
			for i := range n - 1 {
				fill(v.Index(i), r, depth-1)
			}
		}
	case reflect.Map:
		for range r.Intn(3) {
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, r, depth-1)
			fill(value, r, depth-1)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), r, depth)
			}
		}
	}
}

// change makes some random fields of an object others.
func change(obj runtime.Object, r *rand.Rand) {
	v := reflect.ValueOf(obj).Elem()
	for range 1 + r.Intn(3) {
		f := v.Field(1 + r.Intn(v.NumField()-1)) // not TypeMeta
		for f.Kind() == reflect.Struct && f.NumField() > 0 && r.Intn(4) > 0 {
			if next := f.Field(r.Intn(f.NumField())); next.CanSet() {
				f = next
				continue
			}
			break
		}
		if f.Type() != reflect.TypeFor[[]metav1.ManagedFieldsEntry]() {
			fill(f, r, 4)
		}
	}
}

func newConverters(t testing.TB) (fast, plain managedfields.TypeConverter) {
	t.Helper()
	config := genericapiserver.DefaultOpenAPIV3Config(openapi.Definitions, openapinamer.NewDefinitionNamer(registry.Scheme))
	c := NewConverter(config, samples)
	plain, err := c.plain()
	if err != nil {
		t.Fatal(err)
	}
	return c, plain
}

func manager(t testing.TB, c managedfields.TypeConverter, kind schema.GroupVersionKind, subresource string) *managedfields.FieldManager {
	t.Helper()
	return filteredManager(t, c, kind, subresource, nil)
}

func filteredManager(t testing.TB, c managedfields.TypeConverter, kind schema.GroupVersionKind, subresource string, filter fieldpath.Filter) *managedfields.FieldManager {
	t.Helper()
	s := registry.Scheme
	var filters map[fieldpath.APIVersion]fieldpath.Filter
	if filter != nil {
		filters = map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(kind.GroupVersion().String()): filter}
	}
	m, err := managedfields.NewDefaultFieldManager(c, runtime.UnsafeObjectConvertor(s), s, s, kind,
		schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal}, subresource, filters)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// outcome is what a field manager made of an update, without times.
func outcome(obj runtime.Object, err error) ([]metav1.ManagedFieldsEntry, error) {
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	entries := slices.Clone(m.GetManagedFields())
	for i := range entries {
		entries[i].Time = nil
	}
	return entries, nil
}

// emptyOf is a new object of a sample's type.
func emptyOf(sample runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(sample).Elem()).Interface().(runtime.Object)
}

// eachSample runs a subtest for each kind of samples.
func eachSample(t *testing.T, test func(t *testing.T, sample runtime.Object, kind schema.GroupVersionKind)) {
	t.Helper()
	for _, sample := range samples {
		kinds, _, err := registry.Scheme.ObjectKinds(sample)
		if err != nil {
			t.Fatal(err)
		}
		kind := kinds[slices.IndexFunc(kinds, func(k schema.GroupVersionKind) bool { return k.Version == "v1" && k.Group != "events.k8s.io" })]
		t.Run(kind.Kind, func(t *testing.T) { test(t, sample, kind) })
	}
}

// TestSameManagedFields checks that field managers with this converter and with
// the library's write the same, when random objects are created and changed.
func TestSameManagedFields(t *testing.T) {
	fast, plain := newConverters(t)
	rounds := 300
	if testing.Short() {
		rounds = 40
	}
	eachSample(t, func(t *testing.T, sample runtime.Object, kind schema.GroupVersionKind) {
		for _, subresource := range []string{"", "status"} {
			f, p := manager(t, fast, kind, subresource), manager(t, plain, kind, subresource)
			written := 0
			for seed := range rounds {
				if checkRound(t, f, p, sample, int64(seed)) {
					written++
				}
			}
			if written < rounds/2 {
				t.Errorf("%d of %d rounds made managed fields; the test shows little", written, rounds)
			}
		}
	})
}

// checkRound creates an object and changes it three times with both managers.
func checkRound(t *testing.T, fast, plain *managedfields.FieldManager, sample runtime.Object, seed int64) bool {
	t.Helper()
	r := rand.New(rand.NewSource(seed))
	empty := emptyOf(sample)
	obj := empty.DeepCopyObject()
	fill(reflect.ValueOf(obj).Elem(), r, 4)
	live := empty
	wrote := false
	for step := range 4 {
		who := []string{"one", "two"}[r.Intn(2)]
		got, gotErr := outcome(fast.Update(live.DeepCopyObject(), obj.DeepCopyObject(), who))
		want, wantErr := outcome(plain.Update(live.DeepCopyObject(), obj.DeepCopyObject(), who))
		if wantErr != nil {
			return wrote // what is wrong is found in the validation of objects before; the next test is about it
		}
		if gotErr != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d, step %d\ngot  %v %v\nwant %v", seed, step, got, gotErr, want)
		}
		wrote = wrote || len(want) > 0
		m, err := meta.Accessor(obj)
		if err != nil {
			t.Fatal(err)
		}
		m.SetManagedFields(want)
		live, obj = obj, obj.DeepCopyObject()
		change(obj, r)
	}
	return wrote
}

// TestUpdated checks that managed fields computed here are those of the library, to
// the byte and in its order.
func TestUpdated(t *testing.T) {
	fast, plain := newConverters(t)
	rounds := 80
	if testing.Short() {
		rounds = 25
	}
	eachSample(t, func(t *testing.T, sample runtime.Object, kind schema.GroupVersionKind) {
		filters := map[string]fieldpath.Filter{"": nil, "status": fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "labels")))}
		for subresource, filter := range filters {
			m := filteredManager(t, plain, kind, subresource, filter)
			direct, all := 0, 0
			for seed := range rounds {
				updatedRound(t, fast.(*Converter), m, sample, kind, subresource, filter, int64(seed), &direct, &all)
			}
			t.Logf("%q: %d of %d directly", subresource, direct, all)
			if direct < all/4 || direct == 0 {
				t.Errorf("%q: %d of %d made directly; the test shows little", subresource, direct, all)
			}
		}
	})
}

// updatedRound changes an object some times, as managers that update and apply, one
// of whose fields are written in another form now and then.
func updatedRound(t *testing.T, c *Converter, m *managedfields.FieldManager, sample runtime.Object, kind schema.GroupVersionKind,
	subresource string, filter fieldpath.Filter, seed int64, direct, all *int,
) {
	t.Helper()
	r := rand.New(rand.NewSource(seed))
	live := emptyOf(sample)
	fill(reflect.ValueOf(live).Elem(), r, 1+r.Intn(4))
	live = m.UpdateNoErrors(emptyOf(sample), live, "one")
	for range 5 {
		obj := live.DeepCopyObject()
		change(obj, r)
		resend(t, obj, r)
		who := metav1.ManagedFieldsEntry{Manager: []string{"one", "two", "three"}[r.Intn(3)], Operation: metav1.ManagedFieldsOperationUpdate,
			APIVersion: kind.GroupVersion().String(), Subresource: subresource}
		next, err := m.Update(live.DeepCopyObject(), obj.DeepCopyObject(), who.Manager)
		if err != nil {
			return
		}
		was, is := live.DeepCopyObject(), obj.DeepCopyObject()
		was.GetObjectKind().SetGroupVersionKind(kind)
		is.GetObjectKind().SetGroupVersionKind(kind)
		entries, ok := Claimed(entriesOf(t, was), entriesOf(t, is), subresource != "")
		if len(entries) == 0 && ok {
			return
		}
		*all++
		if !ok {
			live = next
			continue
		}
		if got, ok := c.Updated(was, is, entries, who, filter); ok {
			*direct++
			want := entriesOf(t, next)
			for i := range want {
				if i < len(got) && (got[i].Time == nil) != (want[i].Time == nil) {
					t.Fatalf("seed %d: time of %s is %v, want %v", seed, want[i].Manager, got[i].Time, want[i].Time)
				}
			}
			if g, w := timeless(got), timeless(want); !reflect.DeepEqual(g, w) {
				t.Fatalf("seed %d by %s\ngot  %v\nwant %v", seed, who.Manager, g, w)
			}
		}
		live = next
		entries = slices.Clone(entriesOf(t, live)) // seconds apart, so that their order is not by chance
		for i := range entries {
			at := metav1.NewTime(time.Unix(1_700_000_000+r.Int63n(5), 0))
			entries[i].Time = &at
			if r.Intn(4) == 0 {
				entries[i].Time = nil
			}
			if r.Intn(6) == 0 && !slices.ContainsFunc(entries, func(e metav1.ManagedFieldsEntry) bool { return e.Operation == metav1.ManagedFieldsOperationApply }) {
				entries[i].Operation = metav1.ManagedFieldsOperationApply
			}
			if r.Intn(20) == 0 {
				entries[i].FieldsV1 = metav1.NewFieldsV1(`{"f:metadata":{ "f:labels":{}},"f:nix":{}}`)
			}
		}
		m, err := meta.Accessor(live)
		if err != nil {
			t.Fatal(err)
		}
		m.SetManagedFields(entries)
	}
}

// resend changes the managed fields that a client sends back with an object: none,
// fewer, others, unreadable ones, or those that ask to forget all.
func resend(t *testing.T, obj runtime.Object, r *rand.Rand) {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Clone(m.GetManagedFields())
	switch r.Intn(12) {
	case 0, 1:
		entries = nil
	case 2:
		entries = entries[:r.Intn(len(entries)+1)]
	case 3:
		entries = append(entries, metav1.ManagedFieldsEntry{Manager: "four", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:finalizers":{}}}`)})
	case 4:
		entries = append(entries, metav1.ManagedFieldsEntry{Manager: "five", Operation: "Nix", FieldsV1: metav1.NewFieldsV1(`{`)})
	case 5:
		entries = []metav1.ManagedFieldsEntry{{}}
	}
	m.SetManagedFields(entries)
}

func entriesOf(t testing.TB, obj runtime.Object) []metav1.ManagedFieldsEntry {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	return m.GetManagedFields()
}

// timeless are entries without times, which are of the wall clock.
func timeless(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	entries = slices.Clone(entries)
	for i := range entries {
		entries[i].Time = nil
	}
	return entries
}

// TestCreated checks that the fields of new objects are those of the library, to
// the byte.
func TestCreated(t *testing.T) {
	fast, plain := newConverters(t)
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	eachSample(t, func(t *testing.T, sample runtime.Object, kind schema.GroupVersionKind) {
		m := manager(t, plain, kind, "")
		direct := 0
		for seed := range rounds {
			r := rand.New(rand.NewSource(int64(seed)))
			obj := emptyOf(sample)
			fill(reflect.ValueOf(obj).Elem(), r, 1+r.Intn(5))
			obj.GetObjectKind().SetGroupVersionKind(kind)
			got, ok := fast.(*Converter).Created(obj, nil)
			if !ok {
				continue
			}
			direct++
			live := emptyOf(sample)
			entries, err := outcome(m.Update(live, obj.DeepCopyObject(), "x"))
			want := "{}"
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if len(entries) > 0 {
				want = string(entries[0].FieldsV1.GetRawBytes())
			}
			if string(got) != want {
				t.Fatalf("seed %d\ngot  %s\nwant %s", seed, got, want)
			}
		}
		t.Logf("%d of %d directly", direct, rounds)
		if direct < rounds/20 { // most random objects have doubles in lists
			t.Errorf("%d of %d made directly; the test shows little", direct, rounds)
		}
	})
}

// TestCreatedDirectly checks that usual pods need no help of the library.
func TestCreatedDirectly(t *testing.T) {
	fast, _ := newConverters(t)
	for _, spec := range []string{
		`"ports":[{"containerPort":80,"name":"x","protocol":"TCP"},{"containerPort":81}]`,
		`"env":[{"name":"x","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]`,
		`"resources":{"limits":{"cpu":"1"}}`,
		`"livenessProbe":{"httpGet":{"path":"/x","port":"http"},"periodSeconds":5}`,
		`"volumeMounts":[{"name":"a","mountPath":"/x","readOnly":true}]`,
		`"securityContext":{"runAsNonRoot":true,"capabilities":{"drop":["ALL"]}}`,
	} {
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
		err := json.Unmarshal([]byte(`{"metadata":{"labels":{"a.example/b":"c"},"finalizers":["x.example/y"]},"spec":{
			"containers":[{"name":"c",`+spec+`}],"tolerations":[{"key":"k"}],"nodeSelector":{"a":"b"},
			"volumes":[{"name":"v","configMap":{"name":"x"}},{"name":"w","emptyDir":{}}]}}`), pod)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := fast.(*Converter).Created(pod, []string{"status"}); !ok {
			t.Errorf("not directly: %s\nas far as: %s", spec, got)
		}
	}
}

// TestSame checks the comparison of values.
func TestSame(t *testing.T) {
	for seed := range int64(500) {
		for _, sample := range samples {
			made := func(seed int64) reflect.Value {
				v := reflect.New(reflect.TypeOf(sample).Elem()).Elem()
				fill(v, rand.New(rand.NewSource(seed)), 5)
				return v
			}
			a, b, c := made(seed), made(seed), made(seed)
			if !same.Values(a, b) {
				t.Fatalf("seed %d: equal %T differ", seed, sample)
			}
			change(c.Addr().Interface().(runtime.Object), rand.New(rand.NewSource(seed)))
			if same.Values(a, c) && !reflect.DeepEqual(a.Interface(), c.Interface()) {
				t.Fatalf("seed %d: different %T are the same\n%v\n%v", seed, sample, a.Interface(), c.Interface())
			}
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	fast, plain := newConverters(b)
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	live := &corev1.Pod{}
	fill(reflect.ValueOf(live).Elem(), rand.New(rand.NewSource(7)), 5)
	obj := live.DeepCopy()
	obj.Annotations = map[string]string{"x": "y"}
	b.Run("created", func(b *testing.B) {
		obj.GetObjectKind().SetGroupVersionKind(kind)
		for b.Loop() {
			fast.(*Converter).Created(obj, nil)
		}
	})
	for name, c := range map[string]managedfields.TypeConverter{"fast": fast, "plain": plain} {
		m := manager(b, c, kind, "")
		b.Run(name+"/create", func(b *testing.B) {
			for b.Loop() {
				m.UpdateNoErrors(&corev1.Pod{}, obj, "bench")
			}
		})
		b.Run(name+"/update", func(b *testing.B) {
			with := m.UpdateNoErrors(&corev1.Pod{}, live.DeepCopy(), "before")
			for b.Loop() {
				m.UpdateNoErrors(with, obj, "bench")
			}
		})
	}
}
