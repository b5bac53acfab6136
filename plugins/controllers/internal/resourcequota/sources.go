package resourcequota

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/proto/quota"
)

const (
	// countPrefix begins the names of quotas on the number of objects.
	countPrefix = "count/"
	// unknownRetry is when a kind that is not served is looked for again.
	unknownRetry = 5 * time.Second
	// fillTimeout bounds the first listing of a kind.
	fillTimeout = 10 * time.Second
)

// sources are the informers of the kinds that quotas name, started when they
// do. They run until the plugin ends: a quota that has gone often comes back.
type sources struct {
	context *control.Context
	changed func(namespace string)
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	wg      sync.WaitGroup

	mu      sync.Mutex
	indexes map[schema.GroupResource]*source // guarded by mu
	typed   apiquota.Registry                // of the kinds known by name
}

// source is an informer that runs.
type source struct {
	index  cache.Indexer
	synced func() bool
}

func newSources(c *control.Context, changed func(namespace string)) *sources {
	s := &sources{
		context: c, changed: changed, indexes: map[schema.GroupResource]*source{},
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery)),
	}
	pods := c.Informers.Core().V1().Pods().Informer()
	s.indexes[quota.Pods] = &source{index: pods.GetIndexer(), synced: pods.HasSynced}
	s.typed = generic.NewRegistry(quota.Evaluators(s.lister))
	return s
}

// wait returns when the informers have ended.
func (s *sources) wait() { s.wg.Wait() }

// lister lists from the kind's informer.
func (s *sources) lister(gr schema.GroupResource) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) {
		s.mu.Lock()
		src := s.indexes[gr]
		s.mu.Unlock()
		if src == nil || !src.synced() {
			return nil, fmt.Errorf("%s are not watched yet", gr)
		}
		objs, err := src.index.ByIndex(cache.NamespaceIndex, namespace)
		if err != nil {
			return nil, err
		}
		out := make([]runtime.Object, 0, len(objs))
		for _, o := range objs {
			if r, ok := o.(runtime.Object); ok {
				out = append(out, r)
			}
		}
		return out, nil
	}
}

// registry gives the evaluators that measure hard, with their informers filled.
// unknown tells that a kind that it names is not served.
func (s *sources) registry(ctx context.Context, hard corev1.ResourceList) (reg apiquota.Registry, unknown bool, err error) {
	names := apiquota.ResourceNames(hard)
	var evaluators []apiquota.Evaluator
	have := map[schema.GroupResource]bool{}
	add := func(e apiquota.Evaluator) error {
		gr := e.GroupResource()
		if have[gr] {
			return nil
		}
		have[gr] = true
		err := s.start(ctx, gr)
		if meta.IsNoMatchError(err) {
			unknown = true
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", gr, err)
		}
		evaluators = append(evaluators, e)
		return nil
	}
	for _, e := range s.typed.List() {
		if len(e.MatchingResources(names)) > 0 {
			if err := add(e); err != nil {
				return nil, false, err
			}
		}
	}
	for _, name := range names {
		text, ok := strings.CutPrefix(string(name), countPrefix)
		if !ok {
			continue
		}
		gr := schema.ParseGroupResource(text)
		if s.typed.Get(gr) != nil {
			continue
		}
		if err := add(quota.Count(gr, s.lister(gr))); err != nil {
			return nil, false, err
		}
	}
	return generic.NewRegistry(evaluators), unknown, nil
}

// start runs the informer of a kind, if it does not yet, and waits until it is filled.
func (s *sources) start(ctx context.Context, gr schema.GroupResource) error {
	s.mu.Lock()
	src := s.indexes[gr]
	s.mu.Unlock()
	if src == nil {
		gvr, err := s.mapper.ResourceFor(gr.WithVersion(""))
		if err != nil {
			return err
		}
		if gvr.Group != gr.Group { // the mapper takes no group for any group
			return &meta.NoResourceMatchError{PartialResource: gr.WithVersion("")}
		}
		if src, err = s.open(ctx, gr, gvr); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), src.synced) {
		return fmt.Errorf("list %s: not done after %s", gr, fillTimeout)
	}
	return nil
}

func (s *sources) open(ctx context.Context, gr schema.GroupResource, gvr schema.GroupVersionResource) (*source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if src := s.indexes[gr]; src != nil {
		return src, nil
	}
	inf, run, err := s.informer(ctx, gr, gvr)
	if err != nil {
		return nil, err
	}
	note := func(obj any) {
		if o, ok := control.Deleted[metav1.Object](obj); ok {
			s.changed(o.GetNamespace())
		}
	}
	if _, err := inf.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			if !initial {
				note(obj)
			}
		},
		UpdateFunc: func(_, cur any) {
			if _, bare := cur.(*metav1.PartialObjectMetadata); !bare { // whose number does not change
				note(cur)
			}
		},
		DeleteFunc: note,
	}); err != nil {
		return nil, fmt.Errorf("handle %s: %w", gr, err)
	}
	src := &source{index: inf.GetIndexer(), synced: inf.HasSynced}
	s.indexes[gr] = src
	run()
	return src, nil
}

// informer is a shared one for kinds whose contents count, and else one of bare
// names.
func (s *sources) informer(ctx context.Context, gr schema.GroupResource, gvr schema.GroupVersionResource) (cache.SharedIndexInformer, func(), error) {
	shared := s.context.Informers
	var inf cache.SharedIndexInformer
	switch gr {
	case quota.Services:
		inf = shared.Core().V1().Services().Informer()
	case quota.Claims:
		inf = shared.Core().V1().PersistentVolumeClaims().Informer()
	case quota.Devices:
		inf = shared.Resource().V1().ResourceClaims().Informer()
	}
	if inf != nil {
		return inf, func() { shared.Start(ctx.Done()) }, nil
	}
	inf = metadatainformer.NewFilteredMetadataInformer(s.context.Metadata, gvr, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	if err := inf.SetTransform(bareName); err != nil {
		return nil, nil, fmt.Errorf("strip %s: %w", gr, err)
	}
	return inf, func() { s.wg.Go(func() { inf.RunWithContext(ctx) }) }, nil
}

// bareName leaves of an object what counting needs.
func bareName(obj any) (any, error) {
	if p, ok := obj.(*metav1.PartialObjectMetadata); ok {
		p.ObjectMeta = metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion}
	}
	return obj, nil
}
