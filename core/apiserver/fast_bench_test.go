package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
)

// BenchmarkPatches measures whole requests that patch and apply, on the fast path
// and on the plain one.
func BenchmarkPatches(b *testing.B) {
	for name, plain := range map[string]bool{"fast": false, "plain": true} {
		h := start(b, func(c *Config) { c.plainPath = plain })
		core := protobuf(b, h).CoreV1()
		ctx := b.Context()
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := core.ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		if _, err := core.Pods("default").Create(ctx, benchPod("p"), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) { patches(ctx, b, core.RESTClient()) })
	}
}

func patches(ctx context.Context, b *testing.B, c rest.Interface) {
	n := 0
	each := func(name string, kind types.PatchType, make func() (pod, subresource string, body []byte)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				n++
				pod, sub, body := make()
				r := c.Patch(kind).Namespace("default").Resource("pods").Name(pod).Param("fieldManager", "bench").Body(body)
				if sub != "" {
					r = r.SubResource(sub)
				}
				if err := r.Do(ctx).Error(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	config := func(name string) []byte {
		p := benchPod(name)
		p.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		data, err := json.Marshal(p)
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	each("status", types.StrategicMergePatchType, func() (string, string, []byte) {
		return "p", "status", fmt.Appendf(nil, `{"status":{"message":"%d","conditions":[{"type":"Ready","status":"True"}]}}`, n)
	})
	each("annotation", types.StrategicMergePatchType, func() (string, string, []byte) {
		return "p", "", fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, n)
	})
	each("apply-new", types.ApplyPatchType, func() (string, string, []byte) {
		name := fmt.Sprintf("a%d", n)
		return name, "", config(name)
	})
	each("apply-same", types.ApplyPatchType, func() (string, string, []byte) { return "same", "", config("same") })
}

// BenchmarkOwnerReferences measures looking for doubles among many owners.
func BenchmarkOwnerReferences(b *testing.B) {
	p := benchPod("p")
	for i := range 3000 {
		p.OwnerReferences = append(p.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "o", UID: types.UID(fmt.Sprint(i))})
	}
	for b.Loop() {
		dropDoubleOwners(b.Context(), p)
	}
}

// BenchmarkAppliedJSON measures reading a configuration as the handler does, and
// looking whether it can be read as JSON.
func BenchmarkAppliedJSON(b *testing.B) {
	data, err := json.Marshal(benchPod("p"))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("yaml", func(b *testing.B) {
		for b.Loop() {
			var m map[string]any
			if err := yaml.Unmarshal(data, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			if plain, _ := plainJSON(data); !plain {
				b.Fatal("not plain")
			}
		}
	})
	b.Run("map-to-pod", func(b *testing.B) {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(benchPod("p"))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &corev1.Pod{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
