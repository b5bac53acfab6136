package daemonset

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
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
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/history"
)

// indexTarget finds a set's pods by targetKey.
const indexTarget = "daemon"

// Back-off of pods that fail again and again on one node.
const (
	failedBase = time.Second
	failedMax  = 15 * time.Minute
)

// Controller acts on DaemonSets.
type Controller struct {
	client    kubernetes.Interface
	sets      appslisters.DaemonSetLister
	nodes     corelisters.NodeLister
	pods      cache.Indexer
	revisions *history.Keeper
	events    record.EventRecorder
	log       *slog.Logger
	loop      *control.Loop
	expect    control.Expectations
	failed    *flowcontrol.Backoff

	mu    sync.Mutex
	tasks map[types.UID]*task // by set; guarded by mu
}

// task is what one set's next sync is about. A set without one, as it is seen first, is
// looked at as a whole.
type task struct {
	dirty   map[string]bool // nodes on which something has changed; guarded by the controller's mu
	orphans bool            // there may be pods to adopt; guarded by the controller's mu
	board   *board          // nil: all nodes are to be judged; the syncing worker's
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	apps, core := c.Informers.Apps().V1(), c.Informers.Core().V1()
	revisions := apps.ControllerRevisions().Informer()
	if err := history.AddIndex(revisions); err != nil {
		return nil, err
	}
	pods := core.Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{indexTarget: byTarget}); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	dc := &Controller{
		client: c.Client, sets: apps.DaemonSets().Lister(), nodes: core.Nodes().Lister(), pods: pods.GetIndexer(),
		revisions: history.NewKeeper(c.Client, revisions), events: c.Recorder("daemonset-controller"), log: c.Log,
		failed: flowcontrol.NewBackOff(failedBase, failedMax), tasks: map[types.UID]*task{},
	}
	dc.loop = control.NewLoop(c, "daemonset", 2, dc.sync)
	_, err := control.Handle(apps.DaemonSets().Informer(), func(s *appsv1.DaemonSet) { dc.loop.Enqueue(s) },
		func(old, cur *appsv1.DaemonSet) {
			if old.UID != cur.UID {
				dc.forget(old)
			}
			dc.loop.Enqueue(cur)
		}, dc.forget)
	if err != nil {
		return nil, fmt.Errorf("watch daemon sets: %w", err)
	}
	if _, err := control.Handle(pods, dc.podAdded, dc.podUpdated, dc.podDeleted); err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	if _, err := control.Handle(core.Nodes().Informer(), dc.nodeChanged, dc.nodeUpdated, dc.nodeChanged); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	return dc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func targetKey(set types.UID, node string) string { return string(set) + "/" + node }

func byTarget(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == kind.Kind {
		return []string{targetKey(ref.UID, target(pod))}, nil
	}
	return nil, nil
}

func (c *Controller) forget(set *appsv1.DaemonSet) {
	c.expect.Forget(control.Key(set))
	c.revisions.Forget(set.UID)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tasks, set.UID)
}

// mark has the set's next sync look at the node.
func (c *Controller) mark(set *appsv1.DaemonSet, node string) {
	c.mu.Lock()
	if t := c.tasks[set.UID]; t != nil {
		t.dirty[node] = true
	}
	c.mu.Unlock()
	c.loop.Enqueue(set)
}

// markOrphan has those sets look for orphans that the pod may be of.
func (c *Controller) markOrphan(pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	all, err := c.sets.DaemonSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range all {
		if !control.Selects(set.Spec.Selector, pod) {
			continue
		}
		c.mu.Lock()
		if t := c.tasks[set.UID]; t != nil {
			t.orphans = true
		}
		c.mu.Unlock()
		c.loop.Enqueue(set)
	}
}

func (c *Controller) podAdded(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.podDeleted(pod)
		return
	}
	if metav1.GetControllerOfNoCopy(pod) == nil {
		c.markOrphan(pod)
		return
	}
	if set := c.owner(pod); set != nil {
		c.expect.Created(control.Key(set), 1)
		c.mark(set, target(pod))
	}
}

func (c *Controller) podUpdated(old, cur *corev1.Pod) {
	if set := c.owner(cur); set != nil {
		if cur.DeletionTimestamp != nil {
			c.expect.Deleted(control.Key(set), cur.UID)
		}
		c.mark(set, target(cur))
	} else if metav1.GetControllerOfNoCopy(cur) == nil && (metav1.GetControllerOfNoCopy(old) != nil || !labels.Equals(old.Labels, cur.Labels)) {
		c.markOrphan(cur)
	}
	oldRef, ref := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(cur)
	if oldRef != nil && (ref == nil || ref.UID != oldRef.UID || target(old) != target(cur)) {
		if set := c.owner(old); set != nil {
			c.mark(set, target(old))
		}
	}
}

func (c *Controller) podDeleted(pod *corev1.Pod) {
	if set := c.owner(pod); set != nil {
		c.expect.Deleted(control.Key(set), pod.UID)
		c.mark(set, target(pod))
	}
}

func (c *Controller) owner(pod *corev1.Pod) *appsv1.DaemonSet {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	set, err := c.sets.DaemonSets(pod.Namespace).Get(ref.Name)
	if err != nil || set.UID != ref.UID {
		return nil
	}
	return set
}

// nodeChanged has every set look at this node, and at no other.
func (c *Controller) nodeChanged(node *corev1.Node) {
	all, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range all {
		c.mark(set, node.Name)
	}
}

// nodeUpdated leaves out heartbeats: only labels and taints decide.
func (c *Controller) nodeUpdated(old, cur *corev1.Node) {
	if old.UID != cur.UID || !labels.Equals(old.Labels, cur.Labels) || !equality.Semantic.DeepEqual(old.Spec.Taints, cur.Spec.Taints) {
		c.nodeChanged(cur)
	}
}

// take returns what has changed for the set, which counts as looked at from now on.
func (c *Controller) take(set *appsv1.DaemonSet) (t *task, dirty map[string]bool, orphans bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t = c.tasks[set.UID]
	if t == nil {
		t = &task{orphans: true}
		c.tasks[set.UID] = t
	}
	dirty, orphans = t.dirty, t.orphans
	t.dirty, t.orphans = map[string]bool{}, false
	return t, dirty, orphans
}

// again has the set's next sync look at everything.
func (c *Controller) again(set *appsv1.DaemonSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tasks, set.UID)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	set, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get daemon set %s: %w", key, err)
	}
	if set.DeletionTimestamp != nil {
		return nil
	}
	if s := set.Spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		c.events.Event(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		c.log.Warn("A selector cannot be read", "kind", kind.Kind, "key", key, "err", err)
		return nil
	}
	if err := c.reconcile(ctx, set, selector); err != nil {
		return fmt.Errorf("sync daemon set %s: %w", key, err)
	}
	return nil
}

func (c *Controller) reconcile(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector) error {
	key := control.Key(set)
	// Before the pods are read: what is seen later only makes them newer.
	satisfied := c.expect.Satisfied(key)
	t, dirty, orphans := c.take(set)
	now := time.Now()
	collisions := set.Status.CollisionCount
	err := c.adopt(ctx, set, selector, orphans)
	whole := t.board == nil || t.board.set.Generation != set.Generation
	if err == nil && whole {
		collisions, err = c.prepare(ctx, set, selector, t)
		dirty = nil
	}
	if err == nil {
		err = c.judge(ctx, selector, t.board, dirty, now)
	}
	if err != nil {
		c.again(set)
		return err
	}
	rolled := len(t.board.outdated)+len(t.board.spent) == 0
	var actErr error
	if satisfied {
		actErr = c.act(ctx, t.board, now)
	}
	if err := c.updateStatus(ctx, set, t.board.status(set, collisions)); err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	if actErr != nil {
		return actErr
	}
	if _, next := t.board.due(now); next > 0 {
		c.loop.EnqueueAfter(key, next)
	}
	if rolled {
		return c.truncate(ctx, set, selector, t.board)
	}
	return nil
}

func (c *Controller) updateStatus(ctx context.Context, set *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	return control.UpdateStatus(ctx, c.client.AppsV1().DaemonSets(set.Namespace), set.DeepCopy(), func(o *appsv1.DaemonSet) { o.Status = status })
}
