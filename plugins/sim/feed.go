package sim

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// feed follows a kind and keeps none of its objects.
type feed[T metav1.Object] struct {
	object   any // of the kind
	list     func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch    func(context.Context, metav1.ListOptions) (watch.Interface, error)
	narrow   func(*metav1.ListOptions)
	changed  func(T)   // an object is new or has changed
	removed  func(T)   // an object is gone
	replaced func([]T) // these are all, after a list

	synced chan struct{} // closed after the first list
	once   sync.Once
}

// wrap makes a typed list function one that gives any list.
func wrap[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, o) }
}

// run follows until ctx ends. client tells whether lists come as a watch.
func (f *feed[T]) run(ctx context.Context, client any) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			f.narrow(&o)
			return f.list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			f.narrow(&o)
			return f.watch(ctx, o)
		},
	}
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), f.object, f, cache.ReflectorOptions{}).RunWithContext(ctx)
}

var _ cache.ReflectorStore = (*feed[metav1.Object])(nil)

// Add implements cache.ReflectorStore.
func (f *feed[T]) Add(obj any) error { return f.Update(obj) }

// Update implements cache.ReflectorStore.
func (f *feed[T]) Update(obj any) error {
	if x, ok := obj.(T); ok {
		f.changed(x)
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *feed[T]) Delete(obj any) error {
	if x, ok := obj.(T); ok {
		f.removed(x)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed[T]) Replace(list []any, _ string) error {
	all := make([]T, 0, len(list))
	for _, obj := range list {
		if x, ok := obj.(T); ok {
			all = append(all, x)
		}
	}
	f.replaced(all)
	f.once.Do(func() { close(f.synced) })
	return nil
}

// Resync implements cache.ReflectorStore.
func (f *feed[T]) Resync() error { return nil }
