// Package namespaces empties namespaces that are being deleted, and then lets
// them go by removing their finalizer.
//
// Contents are found by discovery and deleted by the metadata client, so that
// kinds this program does not know are deleted as well. Pods go first, and the
// rest only after the last of them, so that nothing that a pod still uses while
// it ends (a Secret, a NetworkPolicy) is taken from under it.
package namespaces

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// recheck is how often a namespace with something left in it is looked at
// again, if no event comes before.
const recheck = 5 * time.Second

// Controller is the namespace controller. Keys are names of namespaces.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	discovery  discovery.DiscoveryInterface
	namespaces corelisters.NamespaceLister
	log        *slog.Logger
	loop       *control.Loop
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	core := c.Informers.Core().V1()
	nc := &Controller{client: c.Client, metadata: c.Metadata, discovery: c.Discovery, namespaces: core.Namespaces().Lister(), log: c.Log}
	nc.loop = control.NewLoop(c, "namespace", 5, nc.sync)
	add := func(ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			nc.loop.EnqueueKey(ns.Name)
		}
	}
	if _, err := control.Handle(core.Namespaces().Informer(), add, func(_, ns *corev1.Namespace) { add(ns) }, nil); err != nil {
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	// The last pod to go is what the rest waits for.
	_, err := control.Handle(core.Pods().Informer(), nil, nil, func(pod *corev1.Pod) {
		if ns, err := nc.namespaces.Get(pod.Namespace); err == nil {
			add(ns)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return nc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) sync(ctx context.Context, name string) error {
	cached, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get namespace %s: %w", name, err)
	}
	if cached.DeletionTimestamp == nil {
		return nil
	}
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && ns.UID != cached.UID) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get namespace %s: %w", name, err)
	}
	if len(ns.Spec.Finalizers) == 0 {
		return c.removeLeftover(ctx, ns)
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		if ns, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("mark namespace %s terminating: %w", name, err)
		}
	}
	left := c.deleteContent(ctx, ns.Name)
	if err := c.report(ctx, ns, left); err != nil {
		return err
	}
	if err := left.err(); err != nil {
		return fmt.Errorf("delete content of namespace %s: %w", name, err)
	}
	if left.remaining() {
		return &control.RetryAfter{After: recheck, Reason: "namespace " + name + " still has content"}
	}
	return c.finalize(ctx, ns)
}

func (c *Controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	// Read again: report has written to it, and others may have.
	fresh, err := c.client.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && fresh.UID != ns.UID) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get namespace %s: %w", ns.Name, err)
	}
	kept := []corev1.FinalizerName{}
	for _, f := range fresh.Spec.Finalizers {
		if f != corev1.FinalizerKubernetes {
			kept = append(kept, f)
		}
	}
	fresh.Spec.Finalizers = kept
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, fresh, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", ns.Name, err)
	}
	return nil
}

// removeLeftover deletes a namespace that has been finalized and yet is there.
func (c *Controller) removeLeftover(ctx context.Context, ns *corev1.Namespace) error {
	if len(ns.Finalizers) > 0 {
		return nil
	}
	opts := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: new(ns.UID)}}
	if err := c.client.CoreV1().Namespaces().Delete(ctx, ns.Name, opts); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete namespace %s: %w", ns.Name, err)
	}
	return nil
}
