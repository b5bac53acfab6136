package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// objects keeps the secrets and config maps that the node's pods refer to, each by a watch of its own (a node may read only what its pods
// need). An object is watched from the first pod that refers to it to the last one's end; a change wakes the pods that refer to it.
type objects struct {
	client  kubernetes.Interface
	log     *slog.Logger
	changed func(types.UID)

	ctx context.Context // ends all watches
	wg  sync.WaitGroup

	mu    sync.Mutex // guards items and what they hold
	items map[objectKey]*objectItem
}

type objectKey struct{ kind, namespace, name string } // kind: "secret" or "configmap"

type objectItem struct {
	pods   map[types.UID]bool
	stop   context.CancelFunc
	synced chan struct{} // closed after the first answer
	once   sync.Once
	object runtime.Object // nil: does not exist
}

func newObjects(ctx context.Context, client kubernetes.Interface, log *slog.Logger, changed func(types.UID)) *objects {
	return &objects{ctx: ctx, client: client, log: log, changed: changed, items: map[objectKey]*objectItem{}}
}

// register notes what a pod refers to and begins to watch what is new.
func (o *objects) register(pod *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range podObjects(pod) {
		o.item(key).pods[pod.UID] = true
	}
}

// item returns the entry of key, new if need be. The caller holds mu.
func (o *objects) item(key objectKey) *objectItem {
	it := o.items[key]
	if it == nil {
		ctx, stop := context.WithCancel(o.ctx)
		it = &objectItem{pods: map[types.UID]bool{}, stop: stop, synced: make(chan struct{})}
		o.items[key] = it
		o.wg.Go(func() { o.run(ctx, key, it) })
	}
	return it
}

// release drops a pod's references.
func (o *objects) release(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key, it := range o.items {
		delete(it.pods, uid)
		if len(it.pods) == 0 {
			it.stop()
			delete(o.items, key)
		}
	}
}

// Secret returns a secret that a registered pod refers to.
func (o *objects) Secret(ctx context.Context, ns, name string) (*corev1.Secret, error) {
	obj, err := o.get(ctx, objectKey{"secret", ns, name})
	s, _ := obj.(*corev1.Secret)
	return s, err
}

// ConfigMap returns a config map that a registered pod refers to.
func (o *objects) ConfigMap(ctx context.Context, ns, name string) (*corev1.ConfigMap, error) {
	obj, err := o.get(ctx, objectKey{"configmap", ns, name})
	c, _ := obj.(*corev1.ConfigMap)
	return c, err
}

func (o *objects) get(ctx context.Context, key objectKey) (runtime.Object, error) {
	o.mu.Lock()
	it := o.items[key]
	o.mu.Unlock()
	if it == nil {
		return o.fetch(ctx, key)
	}
	select {
	case <-it.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s %q: %w", key.kind, key.name, ctx.Err())
	}
	o.mu.Lock()
	obj := it.object
	o.mu.Unlock()
	if obj == nil {
		return o.fetch(ctx, key) // it may be newer than the watch
	}
	return obj, nil
}

func (o *objects) fetch(ctx context.Context, key objectKey) (obj runtime.Object, err error) {
	if key.kind == "secret" {
		obj, err = o.client.CoreV1().Secrets(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
	} else {
		obj, err = o.client.CoreV1().ConfigMaps(key.namespace).Get(ctx, key.name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource(key.kind), key.name)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s %q: %w", key.kind, key.name, err)
	}
	return obj, nil
}

// run lists and watches one object until ctx ends.
func (o *objects) run(ctx context.Context, key objectKey, it *objectItem) {
	version := ""
	for failures := 0; ctx.Err() == nil; {
		var err error
		if version == "" {
			version, err = o.list(ctx, key, it)
		} else {
			version, err = o.watch(ctx, key, it, version)
		}
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() == nil {
			o.log.Debug("Watch of object broke", "kind", key.kind, "object", key.namespace+"/"+key.name, "err", err)
		}
		delay := min(200*time.Millisecond<<min(failures, 8), 30*time.Second)
		failures++
		select {
		case <-time.After(delay + rand.N(delay)):
		case <-ctx.Done():
		}
	}
}

func (o *objects) list(ctx context.Context, key objectKey, it *objectItem) (string, error) {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", key.name).String()}
	var found runtime.Object
	var version string
	if key.kind == "secret" {
		list, err := o.client.CoreV1().Secrets(key.namespace).List(ctx, opts)
		if err != nil {
			return "", err
		}
		version = list.ResourceVersion
		if len(list.Items) > 0 {
			found = &list.Items[0]
		}
	} else {
		list, err := o.client.CoreV1().ConfigMaps(key.namespace).List(ctx, opts)
		if err != nil {
			return "", err
		}
		version = list.ResourceVersion
		if len(list.Items) > 0 {
			found = &list.Items[0]
		}
	}
	o.set(it, found)
	if version == "" {
		version = "0"
	}
	return version, nil
}

// watch follows the object from version; it returns the version to go on from ("" = list again).
func (o *objects) watch(ctx context.Context, key objectKey, it *objectItem, version string) (string, error) {
	seconds := int64(300 + rand.IntN(300))
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", key.name).String(),
		ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds}
	var w watch.Interface
	var err error
	if key.kind == "secret" {
		w, err = o.client.CoreV1().Secrets(key.namespace).Watch(ctx, opts)
	} else {
		w, err = o.client.CoreV1().ConfigMaps(key.namespace).Watch(ctx, opts)
	}
	if err != nil {
		return "", err
	}
	defer w.Stop()
	begun := time.Now()
	for {
		select {
		case <-ctx.Done():
			return version, ctx.Err()
		case ev, ok := <-w.ResultChan():
			if !ok {
				if time.Since(begun) < time.Second {
					return version, errors.New("the watch ended at once")
				}
				return version, nil
			}
			switch ev.Type {
			case watch.Error:
				return "", apierrors.FromObject(ev.Object)
			case watch.Added, watch.Modified:
				if obj, err := meta.Accessor(ev.Object); err == nil && obj.GetName() == key.name {
					o.set(it, ev.Object)
				}
			case watch.Deleted:
				o.set(it, nil)
			}
			if obj, err := meta.Accessor(ev.Object); err == nil && obj.GetResourceVersion() != "" {
				version = obj.GetResourceVersion()
			}
		}
	}
}

func (o *objects) set(it *objectItem, obj runtime.Object) {
	o.mu.Lock()
	first := false
	select {
	case <-it.synced:
	default:
		first = true
	}
	it.object = obj
	var pods []types.UID
	for uid := range it.pods {
		pods = append(pods, uid)
	}
	o.mu.Unlock()
	it.once.Do(func() { close(it.synced) })
	if first {
		return
	}
	for _, uid := range pods {
		o.changed(uid)
	}
}

// podObjects lists the secrets and config maps that a pod refers to.
func podObjects(pod *corev1.Pod) map[objectKey]bool {
	out := map[objectKey]bool{}
	add := func(kind, name string) {
		if name != "" {
			out[objectKey{kind, pod.Namespace, name}] = true
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add("secret", s.Name)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.Secret != nil:
			add("secret", v.Secret.SecretName)
		case v.ConfigMap != nil:
			add("configmap", v.ConfigMap.Name)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					add("secret", s.Secret.Name)
				}
				if s.ConfigMap != nil {
					add("configmap", s.ConfigMap.Name)
				}
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, f := range list[i].EnvFrom {
				if f.SecretRef != nil {
					add("secret", f.SecretRef.Name)
				}
				if f.ConfigMapRef != nil {
					add("configmap", f.ConfigMapRef.Name)
				}
			}
			for _, e := range list[i].Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
					add("secret", e.ValueFrom.SecretKeyRef.Name)
				}
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
					add("configmap", e.ValueFrom.ConfigMapKeyRef.Name)
				}
			}
		}
	}
	return out
}
