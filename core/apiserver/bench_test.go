package apiserver

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/framer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
)

// protobuf is an administrator's client that speaks it.
func protobuf(b *testing.B, h *harness) kubernetes.Interface {
	b.Helper()
	c := h.as(b, "admin", "system:masters")
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf"
	return client(b, c)
}

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{
			Name: "c", Image: "registry.example/app:v1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}},
			Ports: []corev1.ContainerPort{{ContainerPort: 80}},
		}}},
	}
}

// BenchmarkServer measures whole requests, client and TLS included.
func BenchmarkServer(b *testing.B) {
	h := start(b)
	admin := protobuf(b, h)
	ctx := b.Context()
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	pods := admin.CoreV1().Pods("default")
	n := 0
	b.Run("create", func(b *testing.B) {
		for b.Loop() {
			n++
			if _, err := pods.Create(ctx, benchPod(fmt.Sprintf("p%d", n)), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("create-parallel", func(b *testing.B) {
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				p := benchPod("")
				p.GenerateName = "q"
				if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := pods.Get(ctx, "p1", metav1.GetOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list-100", func(b *testing.B) {
		for b.Loop() {
			if _, err := pods.List(ctx, metav1.ListOptions{Limit: 100}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("update-status", func(b *testing.B) {
		p, err := pods.Get(ctx, "p1", metav1.GetOptions{})
		if err != nil {
			b.Fatal(err)
		}
		i := 0
		for b.Loop() {
			i++
			p.Status.Message = fmt.Sprint(i)
			if p, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("create-to-watch", func(b *testing.B) {
		maps := admin.CoreV1().ConfigMaps("default")
		w, err := maps.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		i := 0
		for b.Loop() {
			i++
			if _, err := maps.Create(ctx, configMap(fmt.Sprintf("w%d", i), nil), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
			<-w.ResultChan()
		}
	})
}

// BenchmarkFanOut measures a create until 100 watchers have its event, client and TLS
// included: the watchers share a connection and do not decode. Plain is without the
// fast path.
func BenchmarkFanOut(b *testing.B) {
	b.Run("fast", func(b *testing.B) { benchFanOut(b, false) })
	b.Run("plain", func(b *testing.B) { benchFanOut(b, true) })
}

func benchFanOut(b *testing.B, plain bool) {
	b.Helper()
	const watchers = 100
	h := start(b, func(c *Config) { c.plainPath = plain })
	admin := protobuf(b, h)
	maps := admin.CoreV1().ConfigMaps("default")
	opts := &metav1.ListOptions{Watch: true, ResourceVersion: "1"}
	var wg sync.WaitGroup
	seen := make(chan struct{}, watchers)
	for range watchers {
		stream, err := admin.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").VersionedParams(opts, scheme.ParameterCodec).Stream(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(wg.Wait)
		b.Cleanup(func() { stream.Close() })
		wg.Go(func() {
			frames := framer.NewLengthDelimitedFrameReader(stream)
			for buf := make([]byte, 64<<10); ; seen <- struct{}{} {
				if _, err := frames.Read(buf); err != nil {
					return
				}
			}
		})
	}
	i := 0
	for b.Loop() {
		i++
		if _, err := maps.Create(b.Context(), configMap(fmt.Sprintf("w%d", i), nil), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		for range watchers {
			<-seen
		}
	}
}

// BenchmarkStart measures from New to Ready on an empty store.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		_, stop := startIn(b, b.TempDir(), "127.0.0.1:0")
		b.StopTimer()
		stop()
		b.StartTimer()
	}
}
