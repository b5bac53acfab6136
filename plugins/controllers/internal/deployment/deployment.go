// Package deployment moves a Deployment's pods to its current template by
// means of ReplicaSets: one per revision of the template, scaled against each
// other as the strategy says.
//
// In: Deployments, ReplicaSets and Pods from shared informers. Out:
// ReplicaSets, Deployment status, revision annotations, events. All state is in
// the API objects, so the controller may stop at any point and go on later.
package deployment

import (
	"context"
	"errors"
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

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller is the deployment controller.
type Controller struct {
	client      kubernetes.Interface
	deployments appslisters.DeploymentLister
	sets        cache.Indexer
	setLister   appslisters.ReplicaSetLister
	pods        cache.Indexer
	events      record.EventRecorder
	log         *slog.Logger
	loop        *control.Loop
	now         func() time.Time
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	deps, sets, pods := c.Informers.Apps().V1().Deployments(), c.Informers.Apps().V1().ReplicaSets(), c.Informers.Core().V1().Pods()
	dc := &Controller{
		client: c.Client, deployments: deps.Lister(), sets: sets.Informer().GetIndexer(), setLister: sets.Lister(),
		pods: pods.Informer().GetIndexer(), events: c.Recorder("deployment-controller"), log: c.Log, now: time.Now,
	}
	dc.loop = control.NewLoop(c, "deployment", 5, dc.sync)
	enqueue := func(d *appsv1.Deployment) { dc.loop.Enqueue(d) }
	_, err := control.Handle(deps.Informer(), enqueue, func(_, d *appsv1.Deployment) { enqueue(d) }, enqueue)
	if err != nil {
		return nil, fmt.Errorf("watch deployments: %w", err)
	}
	if _, err := control.Handle(sets.Informer(), dc.setChanged, dc.setUpdated, dc.setChanged); err != nil {
		return nil, fmt.Errorf("watch replica sets: %w", err)
	}
	if _, err := control.Handle(pods.Informer(), nil, dc.podUpdated, dc.podDeleted); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return dc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) setChanged(rs *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		c.enqueueOwner(rs.Namespace, ref)
		return
	}
	c.enqueueMatching(rs)
}

func (c *Controller) setUpdated(old, cur *appsv1.ReplicaSet) {
	oldRef, ref := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
	refChanged := (oldRef == nil) != (ref == nil) || (ref != nil && oldRef.UID != ref.UID)
	if refChanged && oldRef != nil {
		c.enqueueOwner(old.Namespace, oldRef)
	}
	if ref != nil {
		c.enqueueOwner(cur.Namespace, ref)
	} else if refChanged || !labels.Equals(old.Labels, cur.Labels) {
		c.enqueueMatching(cur)
	}
}

// podDeleted and podUpdated wake a Recreate deployment, which waits for its
// last old pod and hears nothing of it through the counts of a ReplicaSet.
func (c *Controller) podDeleted(pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.setLister.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil {
		return
	}
	d := c.resolve(pod.Namespace, owner)
	if d != nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.Enqueue(d)
	}
}

func (c *Controller) podUpdated(old, cur *corev1.Pod) {
	if !control.IsTerminal(old) && control.IsTerminal(cur) {
		c.podDeleted(cur)
	}
}

func (c *Controller) resolve(namespace string, ref *metav1.OwnerReference) *appsv1.Deployment {
	if ref.Kind != kind.Kind {
		return nil
	}
	d, err := c.deployments.Deployments(namespace).Get(ref.Name)
	if err != nil || d.UID != ref.UID {
		return nil
	}
	return d
}

func (c *Controller) enqueueOwner(namespace string, ref *metav1.OwnerReference) {
	if d := c.resolve(namespace, ref); d != nil {
		c.loop.Enqueue(d)
	}
}

func (c *Controller) enqueueMatching(rs *appsv1.ReplicaSet) {
	all, err := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil || len(rs.Labels) == 0 {
		return
	}
	for _, d := range all {
		sel, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err == nil && !sel.Empty() && sel.Matches(labels.Set(rs.Labels)) {
			c.loop.Enqueue(d)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	cached, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get deployment %s: %w", key, err)
	}
	d := cached.DeepCopy()
	if equalEverything(d.Spec.Selector) {
		c.events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		if d.Status.ObservedGeneration < d.Generation {
			d.Status.ObservedGeneration = d.Generation
			_, err = c.client.AppsV1().Deployments(namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
		}
		return err
	}
	sets, err := c.claim(ctx, d)
	if err != nil {
		return fmt.Errorf("claim replica sets of deployment %s: %w", key, err)
	}
	r := &rollout{c: c, d: d, sets: sets}
	if err := r.reconcile(ctx); err != nil && !errors.Is(err, errRequeue) {
		return fmt.Errorf("sync deployment %s: %w", key, err)
	}
	return nil
}

func equalEverything(s *metav1.LabelSelector) bool {
	return s != nil && len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, err
	}
	all, err := control.OwnedOrOrphaned[*appsv1.ReplicaSet](c.sets, d.Namespace, d.UID)
	if err != nil {
		return nil, err
	}
	claimer := &control.Claimer{
		Owner: d, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(d.Namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}
	return control.Claim(ctx, claimer, all, func(*appsv1.ReplicaSet) bool { return true })
}
