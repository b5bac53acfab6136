package clients

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"keelson.dev/keelson/test/harness"
)

// watcher is one cache, and what its handler has been told.
type watcher struct {
	kind  int // of churned
	seen  *seen
	store cache.Store
}

// generic gives informers of any kind.
type generic interface {
	ForResource(gvr schema.GroupVersionResource) informers.GenericInformer
}

// startInformers starts an informer of each kind and form: typed over JSON and over
// protobuf, dynamic, metadata only. They end with the test.
func startInformers(t *testing.T, config *rest.Config) []*watcher {
	t.Helper()
	proto := rest.CopyConfig(config)
	proto.ContentType = runtime.ContentTypeProtobuf
	typed := func(c *rest.Config) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(kubernetes.NewForConfigOrDie(c), 0, informers.WithNamespace("default"))
	}
	json, protobuf := typed(config), typed(proto)
	dyn := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(config), 0, "default", nil)
	metas := metadatainformer.NewFilteredSharedInformerFactory(metadata.NewForConfigOrDie(config), 0, "default", nil)
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); json.Shutdown(); protobuf.Shutdown(); dyn.Shutdown(); metas.Shutdown() })
	forms := map[string]generic{"json": typedInformers{t, json}, "protobuf": typedInformers{t, protobuf}, "dynamic": dyn, "metadata": metas}
	var all []*watcher
	var synced []cache.InformerSynced
	for form, factory := range forms {
		for kind := range churned {
			inf := factory.ForResource(churned[kind].gvr).Informer()
			w := &watcher{kind: kind, seen: newSeen(t, form+" "+churned[kind].kind), store: inf.GetStore()}
			reg, err := inf.AddEventHandler(w.seen.handler())
			if err != nil {
				t.Fatal(err)
			}
			synced = append(synced, reg.HasSynced)
			all = append(all, w)
		}
	}
	json.Start(stop)
	protobuf.Start(stop)
	dyn.Start(stop)
	metas.Start(stop)
	if !cache.WaitForCacheSync(t.Context().Done(), synced...) {
		t.Fatal("the caches did not fill")
	}
	return all
}

// typedInformers is the factory of typed informers without its errors.
type typedInformers struct {
	t *testing.T
	f informers.SharedInformerFactory
}

func (i typedInformers) ForResource(gvr schema.GroupVersionResource) informers.GenericInformer {
	inf, err := i.f.ForResource(gvr)
	if err != nil {
		i.t.Fatal(err)
	}
	return inf
}

func (s *seen) handler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { s.event("add", obj) },
		UpdateFunc: func(old, cur any) {
			a, _ := meta.Accessor(old)
			b, _ := meta.Accessor(cur)
			if a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion() {
				return // a relist tells of what has not changed, too
			}
			if a.GetUID() != b.GetUID() { // deleted and made anew while nobody watched
				s.event("delete", old)
				s.event("add", cur)
				return
			}
			s.event("update", cur)
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			s.event("delete", obj)
		},
	}
}

// follow watches a kind from a version on, and goes on where it was when the
// connection breaks. ended gets the error that it gives up with.
func follow(t *testing.T, client dynamic.Interface, kind int, from string) (s *seen, ended func() error) {
	t.Helper()
	ri := client.Resource(churned[kind].gvr).Namespace("default")
	rw, err := watchtools.NewRetryWatcherWithContext(t.Context(), from, retryClient{ri})
	if err != nil {
		t.Fatal(err)
	}
	s = newSeen(t, "retry "+churned[kind].kind)
	var wg sync.WaitGroup
	var last error
	wg.Go(func() {
		for e := range rw.ResultChan() {
			switch e.Type {
			case watch.Added:
				s.event("add", e.Object)
			case watch.Modified:
				s.event("update", e.Object)
			case watch.Deleted:
				s.event("delete", e.Object)
			case watch.Error:
				last = apierrors.FromObject(e.Object)
			}
		}
	})
	t.Cleanup(func() { rw.Stop(); wg.Wait() })
	return s, func() error { wg.Wait(); return last }
}

type retryClient struct{ dynamic.ResourceInterface }

func (c retryClient) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	return c.Watch(ctx, o)
}

// TestInformersUnderChurn keeps 24 caches and 6 plain watches on a server that
// is restarted, killed, and comes back with a history that no longer has what
// they know.
func TestInformersUnderChurn(t *testing.T) {
	t.Parallel()
	const window = 3 * time.Second
	server := startChild(t, 10*time.Minute)
	config := server.config(server.addr)
	client := dynamic.NewForConfigOrDie(config)
	makeServiceAccount(t, config)
	list, err := client.Resource(churned[0].gvr).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, signals := 150, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGKILL}
	if testing.Short() {
		n, signals = 40, signals[1:2]
	}
	caches := startInformers(t, config)
	plain, ended := make([]*seen, len(churned)), make([]func() error, len(churned))
	for kind := range churned {
		plain[kind], ended[kind] = follow(t, client, kind, list.GetResourceVersion())
	}
	w := newWriters(client)
	w.run(t, n)
	for _, c := range caches {
		harness.Eventually(t, "undisturbed, every cache is told of every write", func() string { return w.ledgers[c.kind].missing(c.seen) })
	}
	for i, sig := range signals {
		var wg sync.WaitGroup
		before := w.ledgers[0].len()
		wg.Go(func() { w.run(t, n) })
		harness.Eventually(t, "the writers are under way", func() string {
			if done := w.ledgers[0].len() - before; done < n/4 {
				return fmt.Sprint(done, " writes")
			}
			return ""
		})
		server.end(sig)
		server.start(server.addr)
		wg.Wait()
		for kind, s := range plain {
			harness.Eventually(t, fmt.Sprintf("after %s %d, a watch that resumes is told of every write", sig, i), func() string { return w.ledgers[kind].missing(s) })
		}
		wantSame(t, client, caches)
	}
	// The server comes back after more writes than anybody saw, with a history of 3 s.
	server.end(syscall.SIGKILL)
	server.window = window
	other := freeAddr(t)
	server.start(other)
	elsewhere := newWriters(dynamic.NewForConfigOrDie(server.config(other)))
	elsewhere.run(t, n/4)
	ri := elsewhere.client.Resource(churned[0].gvr)
	harness.Eventually(t, "the history is gone", func() string {
		elsewhere.run(t, 1)
		_, err := ri.List(t.Context(), metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if apierrors.IsResourceExpired(err) {
			return ""
		}
		return fmt.Sprint("list at the first version: ", err)
	})
	server.end(syscall.SIGTERM)
	server.start(server.addr)
	w.run(t, n/4)
	for kind := range churned {
		if err := ended[kind](); !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			t.Errorf("a watch from a version that is gone ended with %v, want 410 Gone", err)
		}
	}
	wantSame(t, client, caches)
}

// wantSame waits until all caches have what a fresh list has.
func wantSame(t *testing.T, client dynamic.Interface, caches []*watcher) {
	t.Helper()
	for _, c := range caches {
		harness.Eventually(t, c.seen.name+": the cache is as a fresh list", func() string {
			list, err := client.Resource(churned[c.kind].gvr).Namespace("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err.Error()
			}
			var diff []string
			want := map[string]string{}
			for _, o := range list.Items {
				want[o.GetName()] = string(o.GetUID()) + "@" + o.GetResourceVersion()
			}
			for _, obj := range c.store.List() {
				o, err := meta.Accessor(obj)
				if err != nil {
					return err.Error()
				}
				if got := string(o.GetUID()) + "@" + o.GetResourceVersion(); got != want[o.GetName()] {
					diff = append(diff, fmt.Sprintf("%s is %s, want %s", o.GetName(), got, want[o.GetName()]))
				}
				delete(want, o.GetName())
			}
			for name := range want {
				diff = append(diff, name+" is missing")
			}
			return strings.Join(diff, "; ")
		})
	}
}
