package binder

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// api is what the binder asks of the API server. Updates demand that the object is
// at the resourceVersion that it has.
type api interface {
	claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	updateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error)
	updateClaimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error)
	updateVolume(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error)
	updateVolumeStatus(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error)
}

// server is the api of a real server.
type server struct{ client kubernetes.Interface }

func (s server) claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return s.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s server) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return s.client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

func (s server) updateClaim(ctx context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	return s.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, c, metav1.UpdateOptions{})
}

func (s server) updateClaimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	return s.client.CoreV1().PersistentVolumeClaims(c.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
}

func (s server) updateVolume(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return s.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
}

func (s server) updateVolumeStatus(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	return s.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{})
}

// latest is a cache and what was written since. It is the worker's alone.
type latest[T metav1.Object] struct {
	cached  cache.Indexer
	written map[string]T // newer than what is cached, or was when last looked at
}

// get returns the newest state known, and false if the object is gone.
func (l *latest[T]) get(key string) (T, bool, error) {
	var zero T
	obj, ok, err := l.cached.GetByKey(key)
	if err != nil {
		return zero, false, fmt.Errorf("look up %s: %w", key, err)
	}
	o, isT := obj.(T)
	if !ok || !isT {
		delete(l.written, key) // only what was cached is written to
		return zero, false, nil
	}
	return l.newer(key, o), true, nil
}

func (l *latest[T]) newer(key string, o T) T {
	w, ok := l.written[key]
	if !ok {
		return o
	}
	if w.GetUID() == o.GetUID() {
		if n, err := resourceversion.CompareResourceVersion(w.GetResourceVersion(), o.GetResourceVersion()); err == nil && n > 0 {
			return w
		}
	}
	delete(l.written, key)
	return o
}

// put remembers what was written.
func (l *latest[T]) put(key string, o T) {
	if l.written == nil {
		l.written = map[string]T{}
	}
	l.written[key] = o
}

// byIndex lists as the cache's index does, each object in its newest state.
func (l *latest[T]) byIndex(index, value string) ([]T, error) {
	objs, err := l.cached.ByIndex(index, value)
	if err != nil {
		return nil, fmt.Errorf("look up %q of %s: %w", value, index, err)
	}
	out := make([]T, 0, len(objs))
	for _, obj := range objs {
		if o, ok := obj.(T); ok {
			key := o.GetName()
			if ns := o.GetNamespace(); ns != "" {
				key = ns + "/" + key
			}
			out = append(out, l.newer(key, o))
		}
	}
	return out, nil
}
