package namespaces

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// leftover is what one pass over a namespace found and could not remove.
type leftover struct {
	discovery  error
	groups     error
	deletion   []error
	instances  map[schema.GroupVersionResource]int
	finalizers map[string]int
}

func (l *leftover) remaining() bool { return len(l.instances) > 0 }

func (l *leftover) err() error {
	return errors.Join(append([]error{l.discovery, l.groups}, l.deletion...)...)
}

// deleteContent asks for the deletion of all in the namespace and tells what is
// left.
func (c *Controller) deleteContent(ctx context.Context, namespace string) *leftover {
	left := &leftover{instances: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	resources := c.deletable(left)
	// Pods are deleted first, and nothing else before they are gone.
	if verbs, ok := resources[pods]; ok {
		c.deleteAll(ctx, namespace, pods, verbs, left)
		if left.remaining() || len(left.deletion) > 0 {
			return left
		}
		delete(resources, pods)
	}
	for _, gvr := range slices.SortedFunc(maps.Keys(resources), func(a, b schema.GroupVersionResource) int {
		return strings.Compare(a.String(), b.String())
	}) {
		c.deleteAll(ctx, namespace, gvr, resources[gvr], left)
	}
	return left
}

// deletable finds the namespaced resources that can be deleted, with their
// verbs. Groups that do not answer are noted; the others go on.
func (c *Controller) deletable(left *leftover) map[schema.GroupVersionResource]metav1.Verbs {
	lists, err := discovery.ServerPreferredNamespacedResources(c.discovery)
	left.discovery = err
	out := map[schema.GroupVersionResource]metav1.Verbs{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			left.groups = errors.Join(left.groups, err)
			continue
		}
		for _, r := range list.APIResources {
			if !r.Namespaced || !slices.Contains(r.Verbs, "delete") || !slices.Contains(r.Verbs, "list") {
				continue
			}
			// The same events are also in the core group.
			if gv.Group == "events.k8s.io" {
				continue
			}
			out[gv.WithResource(r.Name)] = r.Verbs
		}
	}
	return out
}

func (c *Controller) deleteAll(ctx context.Context, namespace string, gvr schema.GroupVersionResource, verbs metav1.Verbs, left *leftover) {
	client := c.metadata.Resource(gvr).Namespace(namespace)
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	collection := slices.Contains(verbs, "deletecollection")
	if collection {
		err := client.DeleteCollection(ctx, opts, metav1.ListOptions{})
		switch {
		case apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err):
			collection = false
		case err != nil:
			left.deletion = append(left.deletion, fmt.Errorf("delete all %s: %w", gvr.GroupResource(), err))
		}
	}
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) {
		return
	}
	if err != nil {
		left.deletion = append(left.deletion, fmt.Errorf("list %s: %w", gvr.GroupResource(), err))
		return
	}
	n := 0
	for i := range list.Items {
		item := &list.Items[i]
		if !collection && item.DeletionTimestamp == nil {
			err := client.Delete(ctx, item.Name, opts)
			if err == nil && len(item.Finalizers) == 0 || apierrors.IsNotFound(err) {
				// Gone at once, or soon: the next pass sees.
				n++
				continue
			}
			if err != nil {
				left.deletion = append(left.deletion, fmt.Errorf("delete %s %s: %w", gvr.GroupResource(), item.Name, err))
			}
		}
		n++
		for _, f := range item.Finalizers {
			left.finalizers[f]++
		}
	}
	if n > 0 {
		left.instances[gvr] = n
	}
}

// report writes upstream's five conditions.
func (c *Controller) report(ctx context.Context, ns *corev1.Namespace, left *leftover) error {
	next := ns.DeepCopy()
	changed := false
	set := func(t corev1.NamespaceConditionType, bad bool, okReason, okMessage, badReason, badMessage string) {
		cond := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: okReason, Message: okMessage, LastTransitionTime: metav1.Now()}
		if bad {
			cond.Status, cond.Reason, cond.Message = corev1.ConditionTrue, badReason, badMessage
		}
		for i := range next.Status.Conditions {
			old := &next.Status.Conditions[i]
			if old.Type != t {
				continue
			}
			if old.Status == cond.Status && old.Reason == cond.Reason && old.Message == cond.Message {
				return
			}
			if old.Status == cond.Status {
				cond.LastTransitionTime = old.LastTransitionTime
			}
			*old = cond
			changed = true
			return
		}
		next.Status.Conditions = append(next.Status.Conditions, cond)
		changed = true
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, left.discovery != nil, "ResourcesDiscovered", "All resources successfully discovered",
		"DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups: %v", left.discovery))
	set(corev1.NamespaceDeletionGVParsingFailure, left.groups != nil, "ParsedGroupVersions", "All legacy kube types successfully parsed",
		"GroupVersionParsingFailed", fmt.Sprint(left.groups))
	set(corev1.NamespaceDeletionContentFailure, len(left.deletion) > 0, "ContentDeleted", "All content successfully deleted, may be waiting on finalization",
		"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %v", len(left.deletion), errors.Join(left.deletion...)))
	set(corev1.NamespaceContentRemaining, left.remaining(), "ContentRemoved", "All content successfully removed",
		"SomeResourcesRemain", "Some resources are remaining: "+describeInstances(left.instances))
	set(corev1.NamespaceFinalizersRemaining, len(left.finalizers) > 0, "ContentHasNoFinalizers", "All content-preserving finalizers finished",
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+describeFinalizers(left.finalizers))
	// An emptied namespace needs no conditions: it goes within this sync.
	if !changed || (!left.remaining() && left.err() == nil) {
		return nil
	}
	if _, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("report on namespace %s: %w", ns.Name, err)
	}
	return nil
}

func describeInstances(m map[schema.GroupVersionResource]int) string {
	var parts []string
	for gvr, n := range m {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func describeFinalizers(m map[string]int) string {
	var parts []string
	for f, n := range m {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", f, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
