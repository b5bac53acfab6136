package registry

import (
	"math/rand"
	"reflect"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/google/go-cmp/cmp"
)

// fill sets the fields of v to random values, as deep as lists and pointers
// go up to a depth. It stays away from what has a form of its own.
func fill(v reflect.Value, r *rand.Rand, depth int) {
	when := time.Unix(1_700_000_000+r.Int63n(1_000_000), 0)
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		*p = metav1.NewTime(when)
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(when)
		return
	case *resource.Quantity:
		*p = *resource.NewMilliQuantity(r.Int63n(10_000), resource.DecimalSI)
		return
	case *intstr.IntOrString:
		*p = intstr.FromInt32(r.Int31n(100))
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":1}`)
		return
	case *metav1.FieldsV1:
		p.SetRawBytes([]byte(`{"f:metadata":{}}`))
		return
	case *metav1.TypeMeta: // the codecs write and clear it
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("s" + string(rune('a'+r.Intn(26))))
	case reflect.Bool:
		v.SetBool(r.Intn(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Intn(100)))
	case reflect.Uint8:
		v.SetUint(uint64(r.Intn(256)))
	case reflect.Pointer:
		if depth > 0 && r.Intn(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), r, depth-1)
		}
	case reflect.Slice:
		if depth > 0 && r.Intn(3) > 0 {
			n := 1 + r.Intn(2)
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				fill(v.Index(i), r, depth-1)
			}
		}
	case reflect.Map:
		if depth > 0 && r.Intn(3) > 0 && v.Type().Key().Kind() == reflect.String {
			v.Set(reflect.MakeMap(v.Type()))
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

// servedTypes gives an object of each kind that is stored.
func servedTypes(t testing.TB) map[schema.GroupVersionKind]runtime.Object {
	t.Helper()
	all := map[schema.GroupVersionKind]runtime.Object{}
	for _, k := range kinds {
		for kind := range Scheme.KnownTypes(k.Version()) {
			gvk := k.Version().WithKind(kind)
			obj, err := Scheme.New(gvk)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := meta.Accessor(obj); err == nil {
				all[gvk] = obj
			}
		}
	}
	return all
}

// TestRoundTrip checks that random objects come back from the stored form and
// from JSON as they went in, and that defaults change nothing the second time.
func TestRoundTrip(t *testing.T) {
	for gvk, empty := range servedTypes(t) {
		t.Run(gvk.String(), func(t *testing.T) {
			for seed := range int64(5) {
				checkRoundTrip(t, gvk, empty.DeepCopyObject(), seed)
			}
		})
	}
}

// FuzzRoundTrip is TestRoundTrip with seeds of the fuzzer's choice.
func FuzzRoundTrip(f *testing.F) {
	types := servedTypes(f)
	f.Add(int64(1))
	f.Fuzz(func(t *testing.T, seed int64) {
		for gvk, empty := range types {
			checkRoundTrip(t, gvk, empty.DeepCopyObject(), seed)
		}
	})
}

func checkRoundTrip(t *testing.T, gvk schema.GroupVersionKind, obj runtime.Object, seed int64) {
	t.Helper()
	fill(reflect.ValueOf(obj).Elem(), rand.New(rand.NewSource(seed)), 6)
	Scheme.Default(obj)
	once := obj.DeepCopyObject()
	Scheme.Default(obj)
	if !apiequality.Semantic.DeepEqual(once, obj) {
		t.Fatalf("seed %d: defaults are not idempotent: %s", seed, cmp.Diff(once, obj))
	}
	for name, codec := range map[string]runtime.Codec{"stored": StorageCodec(gvk.Group), "json": Codecs.LegacyCodec(gvk.GroupVersion())} {
		data, err := runtime.Encode(codec, obj)
		if err != nil {
			t.Fatalf("seed %d: encode %s: %v", seed, name, err)
		}
		back, err := runtime.Decode(codec, data)
		if err != nil {
			t.Fatalf("seed %d: decode %s: %v", seed, name, err)
		}
		if reflect.TypeOf(back) != reflect.TypeOf(obj) { // stored in another version or group
			out, err := Scheme.ConvertToVersion(back, gvk.GroupVersion())
			if err != nil {
				t.Fatal(err)
			}
			back = out
			back.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		}
		if h, ok := back.(*autoscalingv1.HorizontalPodAutoscaler); ok { // v1 says what is measured in an annotation as well
			delete(h.Annotations, "autoscaling.alpha.kubernetes.io/current-metrics")
		}
		if !apiequality.Semantic.DeepEqual(obj, back) {
			t.Fatalf("seed %d: %s changes the object: %s", seed, name, cmp.Diff(obj, back))
		}
	}
}
