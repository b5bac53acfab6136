package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
)

func podAttrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	p := obj.(*example.Pod)
	return p.Labels, fields.Set{"metadata.name": p.Name, "spec.nodeName": p.Spec.NodeName}, nil
}

var nodeTrigger = storage.IndexerFuncs{"spec.nodeName": func(obj runtime.Object) string { return obj.(*example.Pod).Spec.NodeName }}

// TestWatchTrigger moves an object between nodes, and in and out of life, under watches of single nodes.
func TestWatchTrigger(t *testing.T) {
	ctx, s := newTest(t, fixture{getAttrs: podAttrs, triggers: nodeTrigger, options: Options{CompactionWindow: time.Hour}})
	open := func(node string) watch.Interface {
		pred := storage.SelectionPredicate{Label: labels.Everything(), Field: fields.OneTermEqualSelector("spec.nodeName", node), GetAttrs: podAttrs, IndexFields: []string{"spec.nodeName"}}
		w, err := s.Watch(ctx, "/pods/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: pred})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	none, a, b := open(""), open("a"), open("b")
	mustCreate(ctx, t, s, pod("ns", "p"))
	for _, node := range []string{"a", "a", "b"} {
		err := s.GuaranteedUpdate(ctx, "/pods/ns/p", &example.Pod{}, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
			o.(*example.Pod).Spec.NodeName = node
			o.(*example.Pod).Generation++
			return o, nil
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "/pods/ns/p", &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	short := pod("ns", "short")
	short.Spec.NodeName = "a"
	if err := s.Create(ctx, "/pods/ns/short", short, nil, 1); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		w    watch.Interface
		want []watch.EventType
	}{
		"no node": {none, []watch.EventType{watch.Added, watch.Deleted}},
		"node a":  {a, []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Added, watch.Deleted}},
		"node b":  {b, []watch.EventType{watch.Added, watch.Deleted}},
	} {
		for i, want := range c.want {
			if ev := <-c.w.ResultChan(); ev.Type != want {
				t.Errorf("%s: event %d is %s, want %s", name, i, ev.Type, want)
			}
		}
		select {
		case ev := <-c.w.ResultChan():
			t.Errorf("%s: %s of revision %d, want no more", name, ev.Type, revisionOf(t, ev))
		default:
		}
	}
}

// TestUnstructured runs a custom resource, which has no Go type, through its life.
func TestUnstructured(t *testing.T) {
	db := openTest(t, Options{})
	config := storagebackend.NewDefaultConfig("/registry", unstructured.UnstructuredJSONScheme).ForResource(schema.GroupResource{Group: "example.com", Resource: "things"})
	empty := func() runtime.Object {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Thing"}}
	}
	s, destroy, err := db.NewStorage(config, "/example.com/things", nil, empty, nil, storage.DefaultNamespaceScopedAttr, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer destroy()
	ctx := t.Context()
	w, err := s.Watch(ctx, "/example.com/things", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	in := empty().(*unstructured.Unstructured)
	in.SetName("a")
	in.SetNamespace("ns")
	in.Object["spec"] = map[string]any{"size": int64(1)}
	out := &unstructured.Unstructured{}
	if err := s.Create(ctx, "/example.com/things/ns/a", in, out, 0); err != nil {
		t.Fatal(err)
	}
	out.Object["spec"] = "spoilt"
	for range 2 {
		got := &unstructured.Unstructured{}
		if err := s.Get(ctx, "/example.com/things/ns/a", storage.GetOptions{}, got); err != nil {
			t.Fatal(err)
		}
		list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "ThingList"}}
		if err := s.GetList(ctx, "/example.com/things", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil || len(list.Items) != 1 {
			t.Fatalf("list: %v, %d items", err, len(list.Items))
		}
		for _, u := range []*unstructured.Unstructured{got, &list.Items[0]} {
			if size, _, err := unstructured.NestedInt64(u.Object, "spec", "size"); err != nil || size != 1 || u.GetResourceVersion() != "2" {
				t.Fatalf("got %v, %v", u.Object, err)
			}
			u.Object["spec"] = "spoilt"
		}
	}
	err = s.GuaranteedUpdate(ctx, "/example.com/things/ns/a", out, false, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		return o, unstructured.SetNestedField(o.(*unstructured.Unstructured).Object, int64(2), "spec", "size")
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{1, 2} {
		u := (<-w.ResultChan()).Object.(runtime.CacheableObject).GetObject().(*unstructured.Unstructured)
		if size, _, _ := unstructured.NestedInt64(u.Object, "spec", "size"); size != want {
			t.Errorf("event %d: %v, want size %d", i, u.Object, want)
		}
	}
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
		wg.Go(func() {
			for j := range each {
				mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d-%d", i, j)))
			}
		})
	}
	var start atomic.Uint64
	start.Store(mustRevision(t, first.ResourceVersion))
	for range 20 {
		wg.Go(func() {
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
		})
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
