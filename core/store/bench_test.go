package store

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// benchPod is an object of about 2 KB.
func benchPod(ns, name string) *example.Pod {
	p := pod(ns, name)
	p.Labels = map[string]string{"app": "bench"}
	p.Annotations = map[string]string{"data": strings.Repeat("x", 1800)}
	p.Spec.NodeName = "node-" + name[len(name)-1:]
	return p
}

func BenchmarkCreate(b *testing.B) {
	for _, parallel := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			ctx, s := newTest(b, fixture{})
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range parallel {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						mustCreate(ctx, b, s, benchPod("ns", fmt.Sprint("p", i)))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/float64(s.db.head.seq-1), "writes/sync")
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	ctx, s := newTest(b, fixture{})
	mustCreate(ctx, b, s, benchPod("ns", "p"))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		label(ctx, b, s, "/pods/ns/p", fmt.Sprint(i))
	}
}

func fill(b *testing.B, s *Storage, n int) {
	b.Helper()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				mustCreate(b.Context(), b, s, benchPod("ns", fmt.Sprintf("p%05d", i)))
			}
		})
	}
	wg.Wait()
}

func BenchmarkGet(b *testing.B) {
	for _, cacheBytes := range []int64{0, -1} {
		b.Run(fmt.Sprintf("cache=%v", cacheBytes == 0), func(b *testing.B) {
			ctx, s := newTest(b, fixture{options: Options{CacheBytes: cacheBytes}})
			fill(b, s, 1000)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				out := &example.Pod{}
				if err := s.Get(ctx, fmt.Sprintf("/pods/ns/p%05d", i%1000), storage.GetOptions{}, out); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	for _, cacheBytes := range []int64{64 << 20, -1} {
		for _, c := range []struct {
			name  string
			field fields.Selector
			limit int64
		}{{"all", fields.Everything(), 0}, {"page of 500", fields.Everything(), 500}, {"one node in ten", fields.OneTermEqualSelector("spec.nodeName", "node-3"), 0}} {
			b.Run(fmt.Sprintf("cache=%v/%s", cacheBytes > 0, c.name), func(b *testing.B) {
				ctx, s := newTest(b, fixture{options: Options{CacheBytes: cacheBytes}, getAttrs: podAttrs})
				fill(b, s, 5000)
				pred := storage.SelectionPredicate{Label: storage.Everything.Label, Field: c.field, GetAttrs: podAttrs, Limit: c.limit}
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					if err := s.GetList(ctx, "/pods/", storage.ListOptions{Predicate: pred, Recursive: true}, &example.PodList{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkWatch writes one object and waits until all watches have it.
func BenchmarkWatch(b *testing.B) {
	for _, watches := range []int{1, 100, 1000} {
		for _, selective := range []bool{false, true} {
			b.Run(fmt.Sprintf("watches=%d/selective=%v", watches, selective), func(b *testing.B) {
				ctx, s := newTest(b, fixture{getAttrs: podAttrs, triggers: nodeTrigger})
				mustCreate(ctx, b, s, benchPod("ns", "p0"))
				var got sync.WaitGroup
				for i := range watches {
					pred := storage.SelectionPredicate{Label: storage.Everything.Label, Field: fields.Everything(), GetAttrs: podAttrs}
					if selective && i > 0 { // all but one want another node
						pred.Field = fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("other-", i))
						pred.IndexFields = []string{"spec.nodeName"}
					}
					w, err := s.Watch(ctx, "/pods/", storage.ListOptions{ResourceVersion: fmt.Sprint(s.db.Revision()), Recursive: true, Predicate: pred})
					if err != nil {
						b.Fatal(err)
					}
					defer w.Stop()
					go func() {
						for ev := range w.ResultChan() {
							if ev.Type == watch.Modified {
								got.Done()
							}
						}
					}()
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					if selective {
						got.Add(1)
					} else {
						got.Add(watches)
					}
					out := &example.Pod{}
					err := s.GuaranteedUpdate(ctx, "/pods/ns/p0", out, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
						o.(*example.Pod).Generation = int64(i + 1)
						return o, nil
					}), nil)
					if err != nil {
						b.Fatal(err)
					}
					got.Wait()
				}
			})
		}
	}
}

// BenchmarkOpen opens a store of 20,000 objects of 2 KB.
func BenchmarkOpen(b *testing.B) {
	_, s := newTest(b, fixture{})
	fill(b, s, 20000)
	dir := s.db.opts.Dir
	if err := s.db.Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		db, err := Open(b.Context(), Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
