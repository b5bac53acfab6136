// Package garbage deletes objects whose owners are gone, and carries out
// foreground and orphaning deletion.
//
// In: metadata of every resource that can be listed, watched and deleted, by
// one informer each (shared with the other controllers where they have one).
// From it comes a graph of ownership, which says where to look; before anything
// is deleted the object is read anew, and so is each owner that the graph does
// not have. Out: deletions with preconditions, patches of owner references and
// finalizers.
//
// Goroutines: the informers, the workers of two loops, and one that looks up
// which resources there are, every 30 s and a second after a custom resource
// definition or an APIService has changed. The graph is Warm's, the loops are Run's; each
// waits for its own.
package garbage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller is the garbage collector.
type Controller struct {
	metadata  metadata.Interface
	discovery discovery.DiscoveryInterface
	events    record.EventRecorder
	log       *slog.Logger
	graph     *graph
	check     *control.Loop // keys are UIDs of objects that may be garbage
	orphan    *control.Loop // keys are UIDs of owners that let their dependents go
	shared    map[schema.GroupVersionResource]cache.SharedIndexInformer
	monitors  *monitors
	served    signal        // what is served has changed
	warm      chan struct{} // closed when the graph is there
	absent    *lru.Cache    // of absentOwner

	mu      sync.Mutex
	catalog *catalog // guarded by mu
}

// New makes the collector. It takes part in the typed informers in use
// elsewhere, which doubles no cache.
func New(c *control.Context) *Controller {
	core, apps := c.Informers.Core().V1(), c.Informers.Apps().V1()
	gc := &Controller{
		metadata: c.Metadata, discovery: c.Discovery, events: c.Recorder("garbage-collector-controller"), log: c.Log, graph: newGraph(), absent: lru.New(maxAbsent),
		shared: map[schema.GroupVersionResource]cache.SharedIndexInformer{
			{Version: "v1", Resource: "pods"}:                                      core.Pods().Informer(),
			{Version: "v1", Resource: "services"}:                                  core.Services().Informer(),
			{Version: "v1", Resource: "nodes"}:                                     core.Nodes().Informer(),
			{Version: "v1", Resource: "namespaces"}:                                core.Namespaces().Informer(),
			{Group: "apps", Version: "v1", Resource: "replicasets"}:                apps.ReplicaSets().Informer(),
			{Group: "apps", Version: "v1", Resource: "deployments"}:                apps.Deployments().Informer(),
			{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}: c.Informers.Discovery().V1().EndpointSlices().Informer(),
			{Version: "v1", Resource: "endpoints"}:                                 core.Endpoints().Informer(),
		},
	}
	gc.served, gc.warm = make(signal, 1), make(chan struct{})
	gc.monitors = &monitors{c: gc, running: map[schema.GroupVersionResource]*monitor{}}
	gc.check = control.NewLoop(c, "garbagecollector", 8, gc.syncObject)
	gc.orphan = control.NewLoop(c, "orphan", 4, gc.syncOrphan)
	return gc
}

func (c *Controller) act(t todo) {
	for _, uid := range t.check {
		c.check.EnqueueKey(string(uid))
	}
	for _, uid := range t.orphan {
		c.orphan.EnqueueKey(string(uid))
	}
}

// Warm keeps the graph until ctx ends. It deletes nothing.
func (c *Controller) Warm(ctx context.Context) error {
	defer c.monitors.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.refresh(ctx)
	c.monitors.waitForSync(ctx)
	close(c.warm)
	tick := time.NewTicker(rediscover)
	defer tick.Stop()
	var soon <-chan time.Time // nil: nothing has changed
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.served:
			if soon == nil {
				soon = time.After(settle)
			}
		case <-soon:
			soon = nil
			c.refresh(ctx)
		case <-tick.C:
			c.refresh(ctx)
		}
	}
}

// Run works until ctx ends, as soon as the graph is there.
func (c *Controller) Run(ctx context.Context) error {
	select {
	case <-c.warm:
	case <-ctx.Done():
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.check.Run(ctx) })
	wg.Go(func() { _ = c.orphan.Run(ctx) })
	wg.Wait()
	return nil
}

// refresh discovers resources. At the start it is tried until it works: without
// it there is nothing to do.
func (c *Controller) refresh(ctx context.Context) {
	delay := 100 * time.Millisecond
	for {
		cat, err := discover(c.discovery)
		if err == nil {
			c.mu.Lock()
			c.catalog = cat
			c.mu.Unlock()
			c.monitors.update(ctx, cat)
			return
		}
		c.log.Warn("Resources cannot be discovered", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
			delay = min(2*delay, rediscover)
		}
	}
}

// resolve finds the resource of an owner reference.
func (c *Controller) resolve(ref *metav1.OwnerReference) (resource, bool, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return resource{}, false, fmt.Errorf("owner reference to %s %s: %w", ref.Kind, ref.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.catalog.kinds[gv.WithKind(ref.Kind)]
	if !ok {
		// Not served: the owner may be there when it is again. Nothing is
		// deleted on a doubt.
		return resource{}, false, fmt.Errorf("owner reference to %s %s %s: the API does not serve this kind", ref.APIVersion, ref.Kind, ref.Name)
	}
	_, watched := c.catalog.watch[r.gvr]
	return r, watched, nil
}

func (c *Controller) client(r resource, namespace string) metadata.ResourceInterface {
	if r.namespaced {
		return c.metadata.Resource(r.gvr).Namespace(namespace)
	}
	return c.metadata.Resource(r.gvr)
}

func (c *Controller) syncObject(ctx context.Context, key string) error {
	n := c.graph.get(types.UID(key))
	if n == nil || (n.deleting && !n.foreground) {
		return nil
	}
	if n.foreground {
		return c.finishForeground(ctx, n)
	}
	if len(n.owners) == 0 || c.graph.allSolid(n) {
		return nil
	}
	return c.collect(ctx, n)
}
