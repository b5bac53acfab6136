package protection

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller guards one kind.
type Controller struct {
	finalizer string
	resource  schema.GroupVersionResource
	objects   cache.Indexer
	metadata  metadata.Interface
	loop      *control.Loop
	// inUse says who uses the object, or "".
	inUse func(ctx context.Context, obj metav1.Object) (string, error)
}

func newController[T metav1.Object](c *control.Context, name, finalizer string, gvr schema.GroupVersionResource, inf cache.SharedIndexInformer) (*Controller, error) {
	p := &Controller{finalizer: finalizer, resource: gvr, objects: inf.GetIndexer(), metadata: c.Metadata}
	p.loop = control.NewLoop(c, name, 1, p.sync)
	look := func(o T) {
		if has := slices.Contains(o.GetFinalizers(), finalizer); (o.GetDeletionTimestamp() != nil) == has {
			p.loop.Enqueue(o) // to be taken off, or to be put on
		}
	}
	if _, err := control.Handle(inf, look, func(_, cur T) { look(cur) }, nil); err != nil {
		return nil, fmt.Errorf("watch %s: %w", gvr.Resource, err)
	}
	return p, nil
}

// Run works until ctx ends.
func (p *Controller) Run(ctx context.Context) error { return p.loop.Run(ctx) }

func (p *Controller) sync(ctx context.Context, key string) error {
	got, exists, err := p.objects.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	obj, ok := got.(metav1.Object)
	if !ok {
		return nil
	}
	has := slices.Contains(obj.GetFinalizers(), p.finalizer)
	switch deleted := obj.GetDeletionTimestamp() != nil; {
	case !deleted && !has: // made before admission put it on
		return p.write(ctx, obj, append(slices.Clone(obj.GetFinalizers()), p.finalizer))
	case !deleted || !has:
		return nil
	}
	user, err := p.inUse(ctx, obj)
	if err != nil {
		return fmt.Errorf("find who uses %s: %w", key, err)
	}
	if user != "" {
		return nil // what ends it enqueues the key
	}
	return p.write(ctx, obj, slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool { return f == p.finalizer }))
}

func (p *Controller) write(ctx context.Context, obj metav1.Object, finalizers []string) error {
	if finalizers == nil {
		finalizers = []string{}
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": obj.GetUID(), "resourceVersion": obj.GetResourceVersion(), "finalizers": finalizers,
	}})
	if err != nil {
		return fmt.Errorf("encode finalizers: %w", err)
	}
	_, err = p.metadata.Resource(p.resource).Namespace(obj.GetNamespace()).Patch(ctx, obj.GetName(), types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set finalizers of %s: %w", control.Key(obj), err)
	}
	return nil
}
