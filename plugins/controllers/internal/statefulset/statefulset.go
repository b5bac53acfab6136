package statefulset

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/history"
)

// hashLabel is that of a StatefulSet's revisions.
const hashLabel = "controller.kubernetes.io/hash"

// Controller acts on StatefulSets.
type Controller struct {
	client    kubernetes.Interface
	sets      appslisters.StatefulSetLister
	pods      cache.Indexer
	claims    cache.Indexer
	revisions *history.Keeper
	events    record.EventRecorder
	log       *slog.Logger
	loop      *control.Loop
	expect    control.Expectations
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	apps, core := c.Informers.Apps().V1(), c.Informers.Core().V1()
	revisions := apps.ControllerRevisions().Informer()
	if err := history.AddIndex(revisions); err != nil {
		return nil, err
	}
	sc := &Controller{
		client: c.Client, sets: apps.StatefulSets().Lister(), pods: core.Pods().Informer().GetIndexer(),
		claims: core.PersistentVolumeClaims().Informer().GetIndexer(), revisions: history.NewKeeper(c.Client, revisions),
		events: c.Recorder("statefulset-controller"), log: c.Log,
	}
	sc.loop = control.NewLoop(c, "statefulset", 5, sc.sync)
	_, err := control.Handle(apps.StatefulSets().Informer(), func(s *appsv1.StatefulSet) { sc.loop.Enqueue(s) },
		func(old, cur *appsv1.StatefulSet) {
			if old.UID != cur.UID {
				sc.forget(old)
			}
			sc.loop.Enqueue(cur)
		},
		func(s *appsv1.StatefulSet) { sc.forget(s); sc.loop.Enqueue(s) })
	if err != nil {
		return nil, fmt.Errorf("watch stateful sets: %w", err)
	}
	if _, err := control.Handle(core.Pods().Informer(), sc.podAdded, sc.podUpdated, sc.podDeleted); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	if _, err := control.Handle(core.PersistentVolumeClaims().Informer(), nil, nil, sc.claimDeleted); err != nil {
		return nil, fmt.Errorf("watch claims: %w", err)
	}
	return sc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) forget(set *appsv1.StatefulSet) {
	c.expect.Forget(control.Key(set))
	c.revisions.Forget(set.UID)
}

func (c *Controller) podAdded(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.podDeleted(pod)
		return
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if set := c.resolve(pod.Namespace, ref); set != nil {
			c.expect.Created(control.Key(set), 1)
			c.loop.Enqueue(set)
		}
		return
	}
	c.enqueueNamed(pod.Namespace, pod.Name)
}

func (c *Controller) podUpdated(old, cur *corev1.Pod) {
	oldRef, ref := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
	if oldRef != nil && (ref == nil || ref.UID != oldRef.UID) {
		if set := c.resolve(old.Namespace, oldRef); set != nil {
			c.loop.Enqueue(set)
		}
	}
	switch {
	case cur.DeletionTimestamp != nil:
		c.seenDeleted(cur)
	case ref == nil:
		if oldRef != nil || !labels.Equals(old.Labels, cur.Labels) {
			c.enqueueNamed(cur.Namespace, cur.Name)
		}
		return
	}
	if ref != nil {
		if set := c.resolve(cur.Namespace, ref); set != nil {
			c.loop.Enqueue(set)
		}
	}
}

func (c *Controller) podDeleted(pod *corev1.Pod) {
	c.seenDeleted(pod)
	// Also of another owner: its name is free now.
	c.enqueueNamed(pod.Namespace, pod.Name)
}

func (c *Controller) seenDeleted(pod *corev1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if set := c.resolve(pod.Namespace, ref); set != nil {
			c.expect.Deleted(control.Key(set), pod.UID)
		}
	}
}

// claimDeleted wakes the set that could not make a pod as long as a claim of the pod
// before was there.
func (c *Controller) claimDeleted(claim *corev1.PersistentVolumeClaim) {
	for i := range claim.OwnerReferences {
		switch ref := &claim.OwnerReferences[i]; ref.Kind {
		case podKind.Kind:
			c.enqueueNamed(claim.Namespace, ref.Name)
		case kind.Kind:
			if set := c.resolve(claim.Namespace, ref); set != nil {
				c.loop.Enqueue(set)
			}
		}
	}
}

func (c *Controller) resolve(namespace string, ref *metav1.OwnerReference) *appsv1.StatefulSet {
	if ref.Kind != kind.Kind {
		return nil
	}
	set, err := c.sets.StatefulSets(namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return nil
	}
	return set
}

// enqueueNamed adds the set that a pod of this name would be of.
func (c *Controller) enqueueNamed(namespace, pod string) {
	name, _, ok := parseName(pod)
	if !ok {
		return
	}
	if set, err := c.sets.StatefulSets(namespace).Get(name); err == nil {
		c.loop.Enqueue(set)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get stateful set %s: %w", key, err)
	}
	// Before the pods are read: what is seen later only makes them newer.
	satisfied := c.expect.Satisfied(key)
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		c.log.Warn("A selector cannot be read", "kind", kind.Kind, "key", key, "err", err)
		return nil
	}
	s := &state{set: set, claim: c.claimsOf(namespace), now: time.Now(), current: set.Status.CurrentRevision, update: set.Status.UpdateRevision, collisions: ptr.Deref(set.Status.CollisionCount, 0)}
	if s.pods, err = c.claimPods(ctx, set, selector); err != nil {
		return fmt.Errorf("claim pods of stateful set %s: %w", key, err)
	}
	var revs []*appsv1.ControllerRevision
	if set.DeletionTimestamp == nil {
		if revs, err = c.revise(ctx, s, selector); err != nil {
			return fmt.Errorf("record the revision of stateful set %s: %w", key, err)
		}
	}
	p := decide(s)
	var actErr error
	if satisfied {
		actErr = c.act(ctx, s, p, revs)
	}
	if err := c.updateStatus(ctx, set, p.status); err != nil {
		return fmt.Errorf("update status of stateful set %s: %w", key, err)
	}
	if actErr != nil {
		return actErr
	}
	if p.wake > 0 {
		c.loop.EnqueueAfter(key, p.wake)
	}
	if set.DeletionTimestamp != nil {
		return nil
	}
	return c.truncate(ctx, s, p, revs)
}

func (c *Controller) claimsOf(namespace string) func(string) *corev1.PersistentVolumeClaim {
	return func(name string) *corev1.PersistentVolumeClaim {
		obj, ok, err := c.claims.GetByKey(namespace + "/" + name)
		if err != nil || !ok {
			return nil
		}
		claim, _ := obj.(*corev1.PersistentVolumeClaim)
		return claim
	}
}

// claimPods returns the set's pods, after those with its labels and its names are
// adopted and those without its labels are let go.
func (c *Controller) claimPods(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector) ([]*corev1.Pod, error) {
	all, err := control.OwnedOrOrphaned[*corev1.Pod](c.pods, set.Namespace, set.UID)
	if err != nil {
		return nil, err
	}
	return control.Claim(ctx, &control.Claimer{
		Owner: set, Kind: kind, Selector: selector, Fresh: c.fresh(set),
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := c.client.CoreV1().Pods(set.Namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}, all, func(pod *corev1.Pod) bool {
		_, ok := ordinal(set.Name, pod.Name)
		return ok
	})
}

func (c *Controller) fresh(set *appsv1.StatefulSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
}

// revise finds or makes the revisions that the state names.
func (c *Controller) revise(ctx context.Context, s *state, selector labels.Selector) ([]*appsv1.ControllerRevision, error) {
	owner := &history.Set{
		Object: s.set, Kind: kind, Selector: selector, Template: &s.set.Spec.Template, HashLabel: hashLabel,
		Collisions: s.collisions, Fresh: c.fresh(s.set),
	}
	revs, err := c.revisions.Revisions(ctx, owner)
	if err != nil {
		return nil, err
	}
	update, collisions, err := c.revisions.Current(ctx, owner, revs)
	if err != nil {
		return nil, err
	}
	s.update, s.collisions = update.Name, collisions
	revs = append(slices.DeleteFunc(slices.Clone(revs), func(r *appsv1.ControllerRevision) bool { return r.Name == update.Name }), update)
	if !slices.ContainsFunc(revs, func(r *appsv1.ControllerRevision) bool { return r.Name == s.current }) {
		s.current = s.update
	}
	return revs, nil
}

func (c *Controller) truncate(ctx context.Context, s *state, p *plan, revs []*appsv1.ControllerRevision) error {
	used := map[string]bool{s.current: true, s.update: true, p.status.CurrentRevision: true}
	for _, pod := range s.pods {
		used[revisionOf(pod)] = true
	}
	live := func(r *appsv1.ControllerRevision) bool { return used[r.Name] }
	return c.revisions.Truncate(ctx, revs, live, ptr.Deref(s.set.Spec.RevisionHistoryLimit, 10))
}

func (c *Controller) updateStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	return control.UpdateStatus(ctx, c.client.AppsV1().StatefulSets(set.Namespace), set.DeepCopy(), func(o *appsv1.StatefulSet) { o.Status = status })
}
