package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"

	"keelson.dev/keelson/core/etcd"
	"keelson.dev/keelson/core/etcd/etcdtest"
)

// startOnEndpoints runs a server on an etcd that others run.
func startOnEndpoints(t *testing.T, endpoints ...string) *harness {
	t.Helper()
	db, err := etcd.Open(t.Context(), etcd.Options{Servers: endpoints, CompactionInterval: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return start(t, func(c *Config) { c.DB = db })
}

// long is eventually for what a machine under load may need a minute for.
func long(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after two minutes: %s", what)
		}
		<-tick.C
	}
}

// put makes a ConfigMap. One that is there already was made by a try that was not answered.
func put(ctx context.Context, c kubernetes.Interface, name string) error {
	_, err := c.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// ledger notes the ConfigMaps that clients see come: by an informer, and by watching from the last event's
// revision on, however often the watch ends.
type ledger struct {
	mu      sync.Mutex
	added   map[string]int    // by the informer
	told    map[string]uint64 // by the watch, with revisions
	first   uint64            // where the watch began
	last    uint64
	expired bool // the watch was told to list anew: a server that had to reads anew has no older events
	wrong   []string
	wg      sync.WaitGroup // all ends with the context of follow
}

// follow notes all after a revision until ctx ends.
func follow(ctx context.Context, t *testing.T, c kubernetes.Interface, version string) *ledger {
	t.Helper()
	maps := c.CoreV1().ConfigMaps("default")
	w, err := toolswatch.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		return maps.Watch(ctx, o)
	}})
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{added: map[string]int{}, told: map[string]uint64{}, first: first}
	l.wg.Go(func() {
		for e := range w.ResultChan() {
			l.note(e)
		}
	})
	informer := cache.NewSharedInformer(cache.NewListWatchFromClient(c.CoreV1().RESTClient(), "configmaps", "default", fields.Everything()), &corev1.ConfigMap{}, 0)
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.added[o.(*corev1.ConfigMap).Name]++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.wg.Go(func() { informer.RunWithContext(ctx) })
	long(t, "the informer is there", informer.HasSynced)
	return l
}

func (l *ledger) note(e watch.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := e.Object.(*corev1.ConfigMap)
	switch {
	case e.Type == watch.Error && apierrors.IsResourceExpired(apierrors.FromObject(e.Object)):
		l.expired = true
		return
	case !ok:
		l.wrong = append(l.wrong, fmt.Sprintf("%s %v", e.Type, e.Object))
		return
	}
	rev, err := strconv.ParseUint(m.ResourceVersion, 10, 64)
	if err != nil || rev <= l.last {
		l.wrong = append(l.wrong, fmt.Sprintf("%s of revision %s after %d", m.Name, m.ResourceVersion, l.last))
	}
	l.last = rev
	if e.Type == watch.Added {
		l.told[m.Name] = rev
	}
}

// compare holds the ledger against what is there: the informer has seen each come once, and the watch too, up to
// where it was told to list anew.
func (l *ledger) compare(t *testing.T, c kubernetes.Interface) {
	t.Helper()
	list, err := c.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]uint64{}
	for i := range list.Items {
		m := &list.Items[i]
		rev, err := strconv.ParseUint(m.ResourceVersion, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(m.Name, "o-") && rev > l.first {
			there[m.Name] = rev
		}
	}
	long(t, "informer and watch have told of all", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name := range there {
			if l.added[name] == 0 || l.told[name] == 0 && !l.expired {
				return false
			}
		}
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.added {
		if n != 1 {
			t.Errorf("%s has come %d times", name, n)
		}
	}
	for name, rev := range there {
		if rev <= l.last && l.told[name] != rev {
			t.Errorf("the watch has told of %d, not of %s of %d", l.last, name, rev)
		}
	}
	for _, w := range l.wrong {
		t.Errorf("the watch told: %s", w)
	}
	t.Logf("%d objects; watch expired: %v", len(there), l.expired)
}

// revision is where a watch begins that is to miss nothing.
func revision(t *testing.T, h *harness) string {
	t.Helper()
	list, err := h.admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

// ask sends a request and returns the code and the error that it is answered with; 0 is that of a response broken off. The
// server is told how long it may take, not the client, which waits for what it says.
func ask(ctx context.Context, h *harness, verb, name string) (int, error) {
	rest := h.admin.CoreV1().RESTClient()
	r := rest.Verb(verb).Namespace("default").Resource("configmaps").Param("timeout", "2s")
	switch verb {
	case http.MethodPost:
		r.Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	case http.MethodPatch:
		r = rest.Patch("application/merge-patch+json").Namespace("default").Resource("configmaps").Param("timeout", "2s").Name(name).Body([]byte(`{"data":{"a":"b"}}`))
	default:
		if name != "" {
			r.Name(name)
		}
	}
	err := r.MaxRetries(0).Do(ctx).Error()
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return int(status.Status().Code), err
	}
	return 0, err
}

// hurt is a way in which an etcd misbehaves: begin it, and end it.
type hurt struct{ begin, end func() }

// bear has a server bear it: requests are answered, health tells of it, nothing is left of it afterwards, and a watch goes on.
func bear(t *testing.T, h *harness, harm hurt) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for i := range 5 {
		if err := put(ctx, h.admin, fmt.Sprintf("before-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	l := follow(ctx, t, h.admin, revision(t, h))
	if err := put(ctx, h.admin, "o-before"); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	harm.begin()
	askAll(ctx, t, h)
	long(t, "/readyz names etcd", func() bool {
		well, text := health(t, h, "/readyz")
		return !well && strings.Contains(text, "[-]etcd failed")
	})
	if well, text := health(t, h, "/livez"); !well {
		t.Errorf("/livez: %s", text)
	}
	harm.end()
	long(t, "objects can be made again", func() bool { return put(ctx, h.admin, "o-after") == nil })
	long(t, "/readyz is well", func() bool { well, _ := health(t, h, "/readyz"); return well })
	l.compare(t, h.admin)
	long(t, "goroutines have ended", func() bool { return runtime.NumGoroutine() < before+30 })
	cancel()
	l.wg.Wait()
}

// askAll sends sixty requests at a time, of all verbs.
func askAll(ctx context.Context, t *testing.T, h *harness) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 12 {
		for _, tt := range []struct{ verb, name string }{
			{http.MethodGet, "before-0"}, {http.MethodGet, ""}, {http.MethodPost, fmt.Sprintf("o-meanwhile-%d", i)},
			{http.MethodPatch, "before-1"}, {http.MethodDelete, "before-2"},
		} {
			wg.Go(func() {
				code, err := ask(ctx, h, tt.verb, tt.name)
				if err == nil || code == http.StatusInternalServerError || ctx.Err() != nil {
					t.Errorf("%s %q: %d %v", tt.verb, tt.name, code, err)
				}
				if i == 0 {
					t.Logf("%s %q: %d %v", tt.verb, tt.name, code, err)
				}
			})
		}
	}
	wg.Wait()
}

// TestEtcdHurt freezes an etcd, and spoils the network before it.
func TestEtcdHurt(t *testing.T) {
	server := etcdtest.Start(t)
	relay := etcdtest.StartRelay(t, server)
	h := startOnEndpoints(t, relay.Endpoint)
	for _, tt := range []struct {
		name string
		hurt hurt
	}{
		{"frozen", hurt{func() { server.Freeze(t) }, func() { server.Thaw(t) }}},
		{"packets lost", hurt{relay.Stall, relay.Pass}},
		{"packets lost, then connections", hurt{relay.Stall, func() { relay.Drop(); relay.Pass() }}},
		{"connections refused", hurt{relay.Drop, relay.Pass}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.name != "frozen" {
				t.Skip("only the first in the short form")
			}
			bear(t, h, tt.hurt)
			maps := h.admin.CoreV1().ConfigMaps("default")
			if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("slow", func(t *testing.T) {
		relay.Slow(100 * time.Millisecond)
		defer relay.Slow(0)
		if err := put(t.Context(), h.admin, "slow"); err != nil {
			t.Error(err)
		}
		list, err := h.admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			t.Errorf("%d objects, %v", len(list.Items), err)
		}
		if well, text := health(t, h, "/livez"); !well {
			t.Errorf("/livez: %s", text)
		}
	})
}

// TestEtcdMembers loses one member of three, which is borne, and then another, which leaves no majority.
func TestEtcdMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("not in the short form")
	}
	members := etcdtest.StartCluster(t, 3)
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.Endpoint)
	}
	h := startOnEndpoints(t, endpoints...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l := follow(ctx, t, h.admin, revision(t, h))
	for i, m := range members { // one of them leads
		m.Stop()
		long(t, "writes go on without one", func() bool { return put(ctx, h.admin, fmt.Sprintf("o-%d", i)) == nil })
		long(t, "/readyz stays well", func() bool { well, _ := health(t, h, "/readyz"); return well })
		if err := m.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	l.compare(t, h.admin)
	cancel()
	l.wg.Wait()
	bear(t, h, hurt{func() { members[0].Stop(); members[1].Stop() }, func() {
		started := make(chan error, 2)
		for _, m := range members[:2] { // neither serves alone
			go func() { started <- m.Restart() }() // waited for below
		}
		for range 2 {
			if err := <-started; err != nil {
				t.Fatal(err)
			}
		}
	}})
}

// TestEtcdCompacted compacts what a server that is cut off has not seen yet: it reads anew, and so do its clients.
func TestEtcdCompacted(t *testing.T) {
	server := etcdtest.Start(t)
	relay := etcdtest.StartRelay(t, server)
	h, other := startOnEndpoints(t, relay.Endpoint), startOnEndpoints(t, server.Endpoint)
	ctx := t.Context()
	if err := put(ctx, h.admin, "o-before"); err != nil {
		t.Fatal(err)
	}
	old := revision(t, h)
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(h.admin.CoreV1().RESTClient(), "configmaps", "default", fields.Everything()),
		ObjectType:    &corev1.ConfigMap{}, Handler: cache.ResourceEventHandlerFuncs{},
	})
	running, end := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { controller.RunWithContext(running) })
	defer wg.Wait()
	defer end()
	long(t, "the informer is there", controller.HasSynced)

	relay.Drop()
	for i := range 20 {
		if err := put(ctx, other.admin, fmt.Sprintf("o-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.admin.CoreV1().ConfigMaps("default").Delete(ctx, "o-before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	compact(t, server)
	relay.Pass()
	long(t, "the informer has what is there", func() bool {
		_, gone, err := store.GetByKey("default/o-before")
		_, there, _ := store.GetByKey("default/o-19")
		return err == nil && !gone && there
	})
	_, err := h.admin.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{ResourceVersion: old, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("list at a compacted revision: %v", err)
	}
	long(t, "a watch from a compacted revision is told so", func() bool {
		w, err := h.admin.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: old})
		if err != nil {
			return apierrors.IsResourceExpired(err)
		}
		defer w.Stop()
		e := <-w.ResultChan()
		return e.Type == watch.Error && apierrors.IsResourceExpired(apierrors.FromObject(e.Object))
	})
}

// compact drops an etcd's history behind the back of the API servers.
func compact(t *testing.T, server *etcdtest.Server) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Get(t.Context(), "any")
	if err == nil {
		_, err = c.Compact(t.Context(), r.Header.Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}
