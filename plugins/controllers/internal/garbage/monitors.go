package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// rediscover is how often the resources served are looked up anew, for
	// those of aggregated API servers that change by themselves.
	rediscover = 30 * time.Second
	// settle is the time between a change of what is served and the look at it:
	// definitions often come many at a time, and take a moment to be served.
	settle = time.Second
	// syncTimeout bounds how long a resource that does not answer holds up the
	// others at the start. Going on without it is safe, since owners not in the
	// graph are read from the API.
	syncTimeout = 30 * time.Second
)

// catalog is the result of discovery.
type catalog struct {
	kinds  map[schema.GroupVersionKind]resource // every version served
	watch  map[schema.GroupVersionResource]resource
	failed map[schema.GroupVersion]error // did not answer this time
}

// discover lists what the API serves. Only the preferred version of a resource
// is watched.
func discover(client discovery.DiscoveryInterface) (*catalog, error) {
	groups, lists, err := client.ServerGroupsAndResources()
	cat := &catalog{kinds: map[schema.GroupVersionKind]resource{}, watch: map[schema.GroupVersionResource]resource{}}
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		cat.failed = failed.Groups
	} else if err != nil {
		return nil, fmt.Errorf("discover resources: %w", err)
	}
	preferred := map[string]string{}
	for _, g := range groups {
		preferred[g.Name] = g.PreferredVersion.Version
	}
	best := map[schema.GroupResource]resource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for i := range list.APIResources {
			r := &list.APIResources[i]
			if strings.Contains(r.Name, "/") {
				continue
			}
			found := resource{gvr: gv.WithResource(r.Name), kind: r.Kind, namespaced: r.Namespaced}
			cat.kinds[gv.WithKind(r.Kind)] = found
			if !watchable(gv, r) {
				continue
			}
			if _, ok := best[found.gvr.GroupResource()]; !ok || preferred[gv.Group] == gv.Version {
				best[found.gvr.GroupResource()] = found
			}
		}
	}
	for _, r := range best {
		cat.watch[r.gvr] = r
	}
	return cat, nil
}

func watchable(gv schema.GroupVersion, r *metav1.APIResource) bool {
	if r.Name == "events" && (gv.Group == "" || gv.Group == "events.k8s.io") {
		return false // many, short-lived, and owned by nobody
	}
	for _, verb := range []string{"delete", "list", "watch"} {
		if !slices.Contains(r.Verbs, verb) {
			return false
		}
	}
	return true
}

// monitor is one running informer, or a handler on a shared one.
type monitor struct {
	synced func() bool
	stop   func()
}

// monitors keeps one informer for each resource. It is used by one goroutine.
type monitors struct {
	c       *Controller
	running map[schema.GroupVersionResource]*monitor
	wg      sync.WaitGroup
}

// update starts and stops informers until they are those of the catalog.
func (m *monitors) update(ctx context.Context, cat *catalog) {
	for gvr, mon := range m.running {
		_, wanted := cat.watch[gvr]
		_, failed := cat.failed[gvr.GroupVersion()]
		if wanted || failed {
			continue
		}
		mon.stop()
		delete(m.running, gvr)
		m.c.act(m.c.graph.removeAll(gvr))
	}
	for gvr, r := range cat.watch {
		if m.running[gvr] != nil {
			continue
		}
		mon, err := m.start(ctx, r)
		if err != nil {
			m.c.log.Warn("Resource is not watched for garbage", "resource", gvr.String(), "err", err)
			continue
		}
		m.running[gvr] = mon
	}
}

func (m *monitors) start(ctx context.Context, r resource) (*monitor, error) {
	inf, shared := m.c.shared[r.gvr]
	if !shared {
		inf = metadatainformer.NewFilteredMetadataInformer(m.c.metadata, r.gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		if err := inf.SetTransform(trim); err != nil {
			return nil, fmt.Errorf("set transform: %w", err)
		}
	}
	reg, err := inf.AddEventHandler(m.c.handler(r))
	if err != nil {
		return nil, fmt.Errorf("add handler: %w", err)
	}
	if definesResources(r) {
		if _, err := inf.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(_ any, initial bool) {
				if !initial {
					m.c.served.changed()
				}
			},
			UpdateFunc: func(any, any) { m.c.served.changed() },
			DeleteFunc: func(any) { m.c.served.changed() },
		}); err != nil {
			return nil, fmt.Errorf("add handler: %w", err)
		}
	}
	if shared {
		return &monitor{synced: reg.HasSynced, stop: func() { _ = inf.RemoveEventHandler(reg) }}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	// Ends with ctx or when the resource is no longer served.
	m.wg.Go(func() { inf.RunWithContext(ctx) })
	return &monitor{synced: reg.HasSynced, stop: cancel}, nil
}

// definesResources says whether objects of the resource add others to what is
// served.
func definesResources(r resource) bool {
	switch r.gvr.GroupResource() {
	case schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		schema.GroupResource{Group: "apiregistration.k8s.io", Resource: "apiservices"}:
		return true
	}
	return false
}

// signal holds one token: something has changed.
type signal chan struct{}

func (s signal) changed() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// trim keeps of an object what the graph is made from.
func trim(obj any) (any, error) {
	if o, ok := obj.(metav1.Object); ok {
		o.SetManagedFields(nil)
		o.SetLabels(nil)
		o.SetAnnotations(nil)
	}
	return obj, nil
}

func (m *monitors) waitForSync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	synced := make([]cache.InformerSynced, 0, len(m.running))
	for _, mon := range m.running {
		synced = append(synced, mon.synced)
	}
	cache.WaitForCacheSync(ctx.Done(), synced...)
	for gvr, mon := range m.running {
		if ctx.Err() != nil && !mon.synced() {
			m.c.log.Warn("Resource does not answer, going on without", "resource", gvr.String())
		}
	}
}

func (c *Controller) handler(r resource) cache.ResourceEventHandler {
	upsert := func(obj any) {
		if o, ok := obj.(metav1.Object); ok {
			c.act(c.graph.upsert(r, o))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: upsert,
		UpdateFunc: func(old, cur any) {
			// Another UID under the same name: the informer has missed a deletion.
			if a, ok := old.(metav1.Object); ok {
				if b, ok := cur.(metav1.Object); ok && a.GetUID() != b.GetUID() {
					c.act(c.graph.remove(a.GetUID()))
				}
			}
			upsert(cur)
		},
		DeleteFunc: func(obj any) {
			if o, ok := control.Deleted[metav1.Object](obj); ok {
				c.act(c.graph.remove(o.GetUID()))
			}
		},
	}
}
