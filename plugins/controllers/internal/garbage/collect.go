package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// unseenOwner is how soon an object is looked at again whose owner the API has
// and the graph has not yet.
const unseenOwner = 2 * time.Second

// absentOwner is an owner that the API has said to be gone. It never comes back, since
// its UID does not; so of the many dependents of one owner only the first asks.
type absentOwner struct {
	namespace, apiVersion, kind, name string
	uid                               types.UID
}

// maxAbsent is how many of them are remembered.
const maxAbsent = 500

var errNamespacedOwner = errors.New("a cluster-scoped object cannot be owned by a namespaced one")

// owners are an object's owner references by what became of the owners.
type owners struct {
	solid, dangling, waiting []metav1.OwnerReference
	unseen                   bool
}

// collect deletes n if none of its owners is left, or takes the references to
// those gone off it.
func (c *Controller) collect(ctx context.Context, n *node) error {
	live, err := c.read(ctx, n)
	if err != nil || live == nil {
		return err
	}
	if live.DeletionTimestamp != nil || len(live.OwnerReferences) == 0 {
		return nil
	}
	o, err := c.classify(ctx, n, live.OwnerReferences)
	if errors.Is(err, errNamespacedOwner) {
		c.events.Eventf(&corev1.ObjectReference{Kind: n.resource.kind, APIVersion: n.resource.gvr.GroupVersion().String(), Name: n.name, UID: n.uid},
			corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case len(o.solid) > 0:
		if len(o.dangling)+len(o.waiting) > 0 {
			if err := c.patchOwners(ctx, n, live, o.solid); err != nil {
				return err
			}
		}
		if o.unseen {
			return &control.RetryAfter{After: unseenOwner, Reason: "an owner is not in the graph yet"}
		}
		return nil
	case len(o.waiting) > 0 && len(c.graph.dependentsOf(n.uid)) > 0:
		return c.deleteForeground(ctx, n, live)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return c.delete(ctx, n, live, policy)
}

// read gets the object anew. It returns nil, and takes it out of the graph, if
// it is gone.
func (c *Controller) read(ctx context.Context, n *node) (*metav1.PartialObjectMetadata, error) {
	live, err := c.client(n.resource, n.namespace).Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != n.uid) {
		c.act(c.graph.remove(n.uid))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get %s %s/%s: %w", n.resource.gvr.GroupResource(), n.namespace, n.name, err)
	}
	return live, nil
}

func (c *Controller) classify(ctx context.Context, n *node, refs []metav1.OwnerReference) (owners, error) {
	var o owners
	for i := range refs {
		ref := refs[i]
		if known := c.graph.get(ref.UID); known != nil && known.matches(&ref, n.namespace) {
			if known.foreground {
				o.waiting = append(o.waiting, ref)
			} else {
				o.solid = append(o.solid, ref)
			}
			continue
		}
		r, watched, err := c.resolve(&ref)
		if err != nil {
			return o, err
		}
		if r.namespaced && n.namespace == "" {
			return o, fmt.Errorf("owner reference to %s %s: %w", ref.Kind, ref.Name, errNamespacedOwner)
		}
		key := absentOwner{n.namespace, ref.APIVersion, ref.Kind, ref.Name, ref.UID}
		if _, absent := c.absent.Get(key); absent {
			o.dangling = append(o.dangling, ref)
			continue
		}
		live, err := c.client(r, n.namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) || (err == nil && live.UID != ref.UID):
			c.absent.Add(key, nil)
			o.dangling = append(o.dangling, ref)
		case err != nil:
			return o, fmt.Errorf("get owner %s %s: %w", ref.Kind, ref.Name, err)
		case live.DeletionTimestamp != nil && slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
			o.waiting = append(o.waiting, ref)
		default:
			o.solid = append(o.solid, ref)
			o.unseen = o.unseen || watched
		}
	}
	return o, nil
}

// deleteForeground deletes n, whose owner waits for it, so that n in turn waits
// for its own dependents. In a cycle of owners that would never end; so if a
// dependent waits already, n stops holding up its owners.
func (c *Controller) deleteForeground(ctx context.Context, n *node, live *metav1.PartialObjectMetadata) error {
	for _, dep := range c.graph.dependentsOf(n.uid) {
		if !dep.foreground {
			continue
		}
		refs := slices.Clone(live.OwnerReferences)
		for i := range refs {
			refs[i].BlockOwnerDeletion = new(false)
		}
		if err := c.patchOwners(ctx, n, live, refs); err != nil {
			return err
		}
		if live, err := c.read(ctx, n); err != nil || live == nil {
			return err
		} else {
			return c.delete(ctx, n, live, metav1.DeletePropagationForeground)
		}
	}
	return c.delete(ctx, n, live, metav1.DeletePropagationForeground)
}

func (c *Controller) delete(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	err := c.client(n.resource, n.namespace).Delete(ctx, n.name, metav1.DeleteOptions{
		// The version too: somebody may have adopted it since it was read.
		Preconditions:     &metav1.Preconditions{UID: &n.uid, ResourceVersion: &live.ResourceVersion},
		PropagationPolicy: &policy,
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete garbage %s %s/%s: %w", n.resource.gvr.GroupResource(), n.namespace, n.name, err)
	}
	c.log.Debug("Deleted garbage", "resource", n.resource.gvr.GroupResource().String(), "object", n.namespace+"/"+n.name, "policy", policy)
	return nil
}

// finishForeground lets an object go that waited for its dependents, once none
// that blocks it is left.
func (c *Controller) finishForeground(ctx context.Context, n *node) error {
	blocked := false
	for _, dep := range c.graph.dependentsOf(n.uid) {
		for i := range dep.owners {
			if dep.owners[i].UID != n.uid || !ptr.Deref(dep.owners[i].BlockOwnerDeletion, false) {
				continue
			}
			blocked = true
			if !dep.foreground {
				c.check.EnqueueKey(string(dep.uid))
			}
		}
	}
	if blocked {
		return nil // the last one's end brings us here again
	}
	return c.removeFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
}

func (c *Controller) syncOrphan(ctx context.Context, key string) error {
	n := c.graph.get(types.UID(key))
	if n == nil || !n.orphaning {
		return nil
	}
	var errs []error
	for _, dep := range c.graph.dependentsOf(n.uid) {
		live, err := c.read(ctx, dep)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if live == nil {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(r metav1.OwnerReference) bool { return r.UID == n.uid })
		if len(kept) < len(live.OwnerReferences) {
			errs = append(errs, c.patchOwners(ctx, dep, live, kept))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("orphan dependents of %s %s/%s: %w", n.resource.gvr.GroupResource(), n.namespace, n.name, err)
	}
	return c.removeFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

func (c *Controller) removeFinalizer(ctx context.Context, n *node, finalizer string) error {
	live, err := c.read(ctx, n)
	if err != nil || live == nil {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	if len(kept) == len(live.Finalizers) {
		return nil
	}
	return c.patch(ctx, n, live, map[string]any{"finalizers": kept})
}

func (c *Controller) patchOwners(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, refs []metav1.OwnerReference) error {
	return c.patch(ctx, n, live, map[string]any{"ownerReferences": refs})
}

// patch sends a JSON merge patch, which custom resources take as well, with the
// version read, as it replaces whole lists.
func (c *Controller) patch(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, meta map[string]any) error {
	meta["uid"], meta["resourceVersion"] = n.uid, live.ResourceVersion
	data, err := json.Marshal(map[string]any{"metadata": meta})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = c.client(n.resource, n.namespace).Patch(ctx, n.name, types.MergePatchType, data, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %s %s/%s: %w", n.resource.gvr.GroupResource(), n.namespace, n.name, err)
	}
	return nil
}
