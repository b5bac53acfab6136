package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

func podAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	p := obj.(*example.Pod)
	return p.Labels, fields.Set{"metadata.name": p.Name, "spec.nodeName": p.Spec.NodeName}, nil
}

// revisionOf returns the resource version of an event's object.
func revisionOf(t testing.TB, ev watch.Event) uint64 {
	t.Helper()
	m, err := meta.Accessor(ev.Object)
	if err != nil {
		t.Fatalf("event %v %T: %v", ev.Type, ev.Object, err)
	}
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(m.GetResourceVersion())
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// TestWatchNoGap starts watches from old revisions while writers are at it: each has to see every revision after its
// own, in order and once.
func TestWatchNoGap(t *testing.T) {
	ctx, s := newTest(t, fixture{getAttrs: podAttrs})
	const writers, each = 4, 50
	first := mustCreate(ctx, t, s, pod("ns", "first"))
	last := uint64(writers*each) + mustRevision(t, first.ResourceVersion)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range each {
				mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d-%d", i, j)))
			}
		}()
	}
	var start atomic.Uint64
	start.Store(mustRevision(t, first.ResourceVersion))
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			from := start.Load()
			w, err := s.Watch(ctx, "/pods/", storage.ListOptions{ResourceVersion: fmt.Sprint(from), Recursive: true, Predicate: storage.Everything})
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Stop()
			for want := from + 1; want <= last; want++ {
				ev := <-w.ResultChan()
				if got := revisionOf(t, ev); got != want {
					t.Errorf("watch from %d: got revision %d, want %d", from, got, want)
					return
				}
				if want%10 == 0 {
					start.Store(want)
				}
			}
		}()
	}
	wg.Wait()
}

func mustRevision(t testing.TB, s string) uint64 {
	t.Helper()
	rev, err := storage.APIObjectVersioner{}.ParseResourceVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// TestWatchSlow checks that a watcher that reads nothing is cut off, while the writer and others go on, and that it
// can resume where it was.
func TestWatchSlow(t *testing.T) {
	ctx, s := newTest(t, fixture{options: Options{WatchQueue: 50}})
	open := func(rv string) watch.Interface {
		w, err := s.Watch(ctx, "/pods/", storage.ListOptions{ResourceVersion: rv, Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	slow, fast := open("1"), open("1")
	const total = resultBuffer + 50 + 30
	for i := range total {
		mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d", i)))
		if ev := <-fast.ResultChan(); ev.Type != watch.Added {
			t.Fatalf("fast watch: got %v", ev)
		}
	}
	got, last := 0, uint64(1)
	for ev := range slow.ResultChan() {
		got++
		last = revisionOf(t, ev)
	}
	if got < resultBuffer || got >= total {
		t.Errorf("slow watch got %d events before it was cut off, want at least %d and less than %d", got, resultBuffer, total)
	}
	again := open(fmt.Sprint(last))
	for ; got < total; got++ {
		last++
		if rev := revisionOf(t, <-again.ResultChan()); rev != last {
			t.Fatalf("resumed watch: got revision %d, want %d", rev, last)
		}
	}
}

// TestWatchTransitions follows an object in and out of a selector, live and from history.
func TestWatchTransitions(t *testing.T) {
	for _, attrs := range []storage.AttrFunc{nil, podAttrs} {
		ctx, s := newTest(t, fixture{getAttrs: attrs})
		pred := storage.SelectionPredicate{Label: labels.SelectorFromSet(labels.Set{"l": "in"}), Field: fields.Everything(), GetAttrs: podAttrs}
		opts := storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: pred}
		live, err := s.Watch(ctx, "/pods/", opts)
		if err != nil {
			t.Fatal(err)
		}
		defer live.Stop()
		mustCreate(ctx, t, s, pod("ns", "a"))
		var revs []string
		for _, l := range []string{"in", "out", "in", "out2", "in"} {
			revs = append(revs, label(ctx, t, s, "/pods/ns/a", l).ResourceVersion)
		}
		del := &example.Pod{}
		if err := s.Delete(ctx, "/pods/ns/a", del, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		revs = append(revs, del.ResourceVersion)
		past, err := s.Watch(ctx, "/pods/", opts)
		if err != nil {
			t.Fatal(err)
		}
		defer past.Stop()
		for name, w := range map[string]watch.Interface{"live": live, "history": past} {
			for i, want := range []watch.EventType{watch.Added, watch.Deleted, watch.Added, watch.Deleted, watch.Added, watch.Deleted} {
				ev := <-w.ResultChan()
				p := ev.Object.(runtime.CacheableObject).GetObject().(*example.Pod)
				if ev.Type != want || p.ResourceVersion != revs[i] || p.Labels["l"] != "in" {
					t.Errorf("%s event %d: got %s of revision %s with label %q, want %s of revision %s with label in", name, i, ev.Type, p.ResourceVersion, p.Labels["l"], want, revs[i])
				}
			}
		}
	}
}

// TestWatchShared checks that many watchers get one object, and that it is encoded once for each form.
func TestWatchShared(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	const watchers = 10
	var ws []watch.Interface
	for range watchers {
		w, err := s.Watch(ctx, "/pods/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		ws = append(ws, w)
	}
	mustCreate(ctx, t, s, pod("ns", "a"))
	encoded := 0
	encode := func(obj runtime.Object, w io.Writer) error {
		encoded++
		obj.(*example.Pod).Kind = "Pod" // as encoders do
		_, err := io.WriteString(w, obj.(*example.Pod).Name)
		return err
	}
	for _, w := range ws {
		ev := <-w.ResultChan()
		var buf bytes.Buffer
		if err := ev.Object.(runtime.CacheableObject).CacheEncode("form", encode, &buf); err != nil || buf.String() != "a" {
			t.Errorf("encode: %q, %v", &buf, err)
		}
		if kind := ev.Object.(*sharedObject).obj.(*example.Pod).Kind; kind != "" {
			t.Errorf("encoding changed the shared object: kind %q", kind)
		}
	}
	if encoded != 1 {
		t.Errorf("encoded %d times, want once", encoded)
	}
}

// TestDestroy checks that a storage's watches end with it, and all with the DB.
func TestDestroy(t *testing.T) {
	db := openTest(t, Options{})
	s, destroy, err := db.NewStorage(podConfig(fixture{}), "/pods", nil, newPod, func() runtime.Object { return &example.PodList{} }, podAttrs, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	open := func(s storage.Interface) watch.Interface {
		w, err := s.Watch(context.WithoutCancel(t.Context()), "/pods/", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := open(s)
	mustCreate(t.Context(), t, s, pod("ns", "a"))
	if ev := <-w.ResultChan(); ev.Type != watch.Added {
		t.Errorf("got %v", ev)
	}
	destroy()
	destroy()
	for range w.ResultChan() { // ends
	}
	s2, _, err := db.NewStorage(podConfig(fixture{}), "/pods", nil, newPod, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w = open(s2)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for range w.ResultChan() { // ends
	}
	if err := s2.ReadinessCheck(); err == nil {
		t.Error("a closed store is ready")
	}
}
