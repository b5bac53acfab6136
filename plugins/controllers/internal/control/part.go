package control

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Part is a cache of those objects of a kind that one controller needs, where the others
// are many or large, as with secrets. It is filled from Warm on and not waited for.
type Part[T metav1.Object] struct {
	// Informer takes handlers and indexes.
	Informer cache.SharedIndexInformer
	factory  informers.SharedInformerFactory
}

// NewPart makes the cache of the objects of a namespace (all, if empty) that the selector
// matches; pick says of which kind.
func NewPart[T metav1.Object](c *Context, namespace string, selector fields.Selector, pick func(informers.SharedInformerFactory) cache.SharedIndexInformer) *Part[T] {
	f := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTransform(TrimManagedFields), informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = selector.String() }))
	return &Part[T]{Informer: pick(f), factory: f}
}

// Warm keeps the cache until ctx ends.
func (p *Part[T]) Warm(ctx context.Context) error {
	p.factory.Start(ctx.Done())
	<-ctx.Done()
	p.factory.Shutdown()
	return nil
}

// Get gives the object of a name, which must not be changed.
func (p *Part[T]) Get(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	obj, ok, err := p.Informer.GetStore().GetByKey(key)
	t, is := obj.(T)
	return t, ok && is && err == nil
}

// All gives all of them.
func (p *Part[T]) All() []T {
	var out []T
	for _, obj := range p.Informer.GetStore().List() {
		if t, ok := obj.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// WarmAll keeps several caches until ctx ends.
func WarmAll(ctx context.Context, parts ...interface{ Warm(context.Context) error }) error {
	var wg sync.WaitGroup
	for _, p := range parts {
		wg.Go(func() { _ = p.Warm(ctx) }) // its error is nil
	}
	wg.Wait()
	return nil
}
