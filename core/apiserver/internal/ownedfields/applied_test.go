package ownedfields

import (
	"math/rand"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestApplied checks that the fields of objects made by applying are those of the
// library, to the byte.
func TestApplied(t *testing.T) {
	fast, plain := newConverters(t)
	rounds := 200
	if testing.Short() {
		rounds = 60
	}
	eachSample(t, func(t *testing.T, sample runtime.Object, kind schema.GroupVersionKind) {
		m := manager(t, plain, kind, "")
		direct := 0
		for seed := range rounds {
			r := rand.New(rand.NewSource(int64(seed)))
			obj := emptyOf(sample)
			fill(reflect.ValueOf(obj).Elem(), r, 1+r.Intn(4))
			fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
			if err != nil {
				t.Fatal(err)
			}
			config := &unstructured.Unstructured{Object: fields}
			config.SetGroupVersionKind(kind)
			got, ok := fast.(*Converter).Applied(config.DeepCopy(), nil)
			if !ok {
				continue
			}
			live := emptyOf(sample)
			entries, err := outcome(m.Apply(live, config, "x", false))
			if err != nil {
				continue // a fault that the decoding of the object finds as well
			}
			direct++
			if len(entries) != 1 || string(entries[0].FieldsV1.GetRawBytes()) != string(got) {
				t.Fatalf("seed %d\ngot  %s\nwant %v", seed, got, entries)
			}
		}
		t.Logf("%d of %d directly", direct, rounds)
		if direct < rounds/20 { // most random objects have doubles in lists
			t.Errorf("%d of %d made directly; the test shows little", direct, rounds)
		}
	})
}
