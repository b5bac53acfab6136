// Package replicaset keeps as many pods as a ReplicaSet or a ReplicationController
// asks for: it adopts matching pods without a controller, creates and deletes the
// difference, and reports in the status.
//
// There is a Controller for each of the two kinds. In: objects of the kind and Pods
// from shared informers. Out: pods, the kind's status, events. What it has written
// and not yet seen is held in expectations, so a late cache never makes it create a
// pod twice.
package replicaset

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Controller acts on one kind of set.
type Controller struct {
	kind     *kind
	client   kubernetes.Interface
	sets     appslisters.ReplicaSetLister
	setIndex cache.Indexer
	pods     cache.Indexer
	events   record.EventRecorder
	log      *slog.Logger
	loop     *control.Loop
	expect   control.Expectations
}

// New registers the handlers of the controller of ReplicaSets; Run does the work.
func New(c *control.Context) (*Controller, error) { return newController(c, replicaSets(c)) }

// NewReplication is New for ReplicationControllers.
func NewReplication(c *control.Context) (*Controller, error) {
	k, err := replicationControllers(c)
	if err != nil {
		return nil, err
	}
	return newController(c, k)
}

func newController(c *control.Context, k *kind) (*Controller, error) {
	pods := c.Informers.Core().V1().Pods()
	rc := &Controller{
		kind: k, client: c.Client, sets: appslisters.NewReplicaSetLister(k.informer.GetIndexer()), setIndex: k.informer.GetIndexer(),
		pods: pods.Informer().GetIndexer(), events: c.Recorder(k.component), log: c.Log,
	}
	rc.loop = control.NewLoop(c, k.name, 5, rc.sync)
	_, err := control.Handle(k.informer,
		func(rs *appsv1.ReplicaSet) { rc.loop.Enqueue(rs) },
		func(old, cur *appsv1.ReplicaSet) {
			if old.UID != cur.UID {
				rc.expect.Forget(control.Key(old))
			}
			rc.loop.Enqueue(cur)
		},
		func(rs *appsv1.ReplicaSet) { rc.expect.Forget(control.Key(rs)); rc.loop.Enqueue(rs) })
	if err != nil {
		return nil, fmt.Errorf("watch %ss: %w", k.noun, err)
	}
	if _, err := control.Handle(pods.Informer(), rc.podAdded, rc.podUpdated, rc.podDeleted); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return rc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) podAdded(pod *corev1.Pod) {
	// Seen first while being deleted: that is after a restart of ours.
	if pod.DeletionTimestamp != nil {
		c.podDeleted(pod)
		return
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if rs := c.resolve(pod.Namespace, ref); rs != nil {
			c.expect.Created(control.Key(rs), 1)
			c.loop.Enqueue(rs)
		}
		return
	}
	c.enqueueMatching(pod)
}

func (c *Controller) podUpdated(old, cur *corev1.Pod) {
	oldRef, ref := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
	refChanged := (oldRef == nil) != (ref == nil) || (ref != nil && oldRef.UID != ref.UID)
	if refChanged && oldRef != nil {
		if rs := c.resolve(old.Namespace, oldRef); rs != nil {
			c.loop.Enqueue(rs)
		}
	}
	if cur.DeletionTimestamp != nil {
		c.podDeleted(cur)
		return
	}
	if ref != nil {
		rs := c.resolve(cur.Namespace, ref)
		if rs == nil {
			return
		}
		c.loop.Enqueue(rs)
		if min := rs.Spec.MinReadySeconds; min > 0 && !control.IsReady(old) && control.IsReady(cur) {
			// A second more, since transition times have whole seconds.
			c.loop.EnqueueAfter(control.Key(rs), time.Duration(min)*time.Second+time.Second)
		}
		return
	}
	if refChanged || !labels.Equals(old.Labels, cur.Labels) {
		c.enqueueMatching(cur)
	}
}

func (c *Controller) podDeleted(pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return
	}
	if rs := c.resolve(pod.Namespace, ref); rs != nil {
		c.expect.Deleted(control.Key(rs), pod.UID)
		c.loop.Enqueue(rs)
	}
}

func (c *Controller) resolve(namespace string, ref *metav1.OwnerReference) *appsv1.ReplicaSet {
	if ref.Kind != c.kind.Kind {
		return nil
	}
	rs, err := c.sets.ReplicaSets(namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return nil
	}
	return rs
}

func (c *Controller) enqueueMatching(pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	all, err := c.sets.ReplicaSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, rs := range all {
		if control.Selects(rs.Spec.Selector, pod) {
			c.loop.Enqueue(rs)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	rs, err := c.sets.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %s: %w", c.kind.noun, key, err)
	}
	// Before the pods are read: what is seen later only makes the count older
	// than the expectation, never newer.
	satisfied := c.expect.Satisfied(key)
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		c.log.Warn("A selector cannot be read", "kind", c.kind.Kind, "key", key, "err", err)
		return nil
	}
	active, terminating, err := c.claim(ctx, rs, selector)
	if err != nil {
		return fmt.Errorf("claim pods of %s %s: %w", c.kind.noun, key, err)
	}
	var manageErr error
	if satisfied && rs.DeletionTimestamp == nil {
		manageErr = c.manage(ctx, rs, active)
	}
	now := time.Now()
	status := newStatus(rs, active, manageErr, now)
	if c.kind.terminating {
		status.TerminatingReplicas = new(terminating)
	}
	updated, err := c.updateStatus(ctx, rs, status)
	if err != nil {
		return fmt.Errorf("update status of %s %s: %w", c.kind.noun, key, err)
	}
	if manageErr != nil {
		return manageErr
	}
	if rs.Spec.MinReadySeconds > 0 && updated.Status.ReadyReplicas != updated.Status.AvailableReplicas {
		if d := nextAvailable(active, rs.Spec.MinReadySeconds, now); d > 0 {
			c.loop.EnqueueAfter(key, d)
		}
	}
	return nil
}

// claim returns the set's active pods after adoption, and how many of its pods
// are on their way out.
func (c *Controller) claim(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, int32, error) {
	all, err := control.OwnedOrOrphaned[*corev1.Pod](c.pods, rs.Namespace, rs.UID)
	if err != nil {
		return nil, 0, err
	}
	var candidates []*corev1.Pod
	var terminating int32
	for _, pod := range all {
		switch {
		case control.IsActive(pod):
			candidates = append(candidates, pod)
		case !control.IsTerminal(pod) && metav1.IsControlledBy(pod, rs):
			terminating++
		}
	}
	claimer := &control.Claimer{
		Owner: rs, Kind: c.kind.GroupVersionKind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) { return c.kind.get(ctx, rs.Namespace, rs.Name) },
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := c.client.CoreV1().Pods(rs.Namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}
	active, err := control.Claim(ctx, claimer, candidates, control.IsActive)
	return active, terminating, err
}
