package daemonset

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/history"
)

// claim adopts and releases pods of the set.
func (c *Controller) claim(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, pods []*corev1.Pod) ([]*corev1.Pod, error) {
	return control.Claim(ctx, &control.Claimer{
		Owner: set, Kind: kind, Selector: selector, Fresh: c.fresh(set),
		Patch: func(ctx context.Context, name string, data []byte) error {
			_, err := c.client.CoreV1().Pods(set.Namespace).Patch(ctx, name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
			return err
		},
	}, pods, func(*corev1.Pod) bool { return true })
}

// adopt adopts the pods without a controller that match. They are seen as the set's when
// the cache has them so; until then a node may look as if it lacked one.
func (c *Controller) adopt(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, orphans bool) error {
	if !orphans {
		return nil
	}
	objs, err := c.pods.ByIndex(control.IndexController, control.OrphanKey(set.Namespace))
	if err != nil {
		return fmt.Errorf("look up pods: %w", err)
	}
	var pods []*corev1.Pod
	for _, o := range objs {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	adopted, err := c.claim(ctx, set, selector, pods)
	if err != nil {
		return fmt.Errorf("adopt pods: %w", err)
	}
	if len(adopted) > 0 {
		return &control.RetryAfter{After: adoptionPause, Reason: fmt.Sprintf("%d pods were adopted", len(adopted))}
	}
	return nil
}

// adoptionPause is the time for adopted pods to arrive in the cache; events of theirs
// come in any case.
const adoptionPause = 50 * time.Millisecond

func (c *Controller) fresh(set *appsv1.DaemonSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
}

func (c *Controller) revisionsOf(set *appsv1.DaemonSet, selector labels.Selector) *history.Set {
	return &history.Set{
		Object: set, Kind: kind, Selector: selector, Template: &set.Spec.Template, HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey,
		Collisions: ptr.Deref(set.Status.CollisionCount, 0), Fresh: c.fresh(set),
	}
}

// prepare makes a new board for the set's generation, with its revision.
func (c *Controller) prepare(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, t *task) (*int32, error) {
	owner := c.revisionsOf(set, selector)
	collisions := set.Status.CollisionCount
	revs, err := c.revisions.Revisions(ctx, owner)
	if err != nil {
		return collisions, err
	}
	current, n, err := c.revisions.Current(ctx, owner, revs)
	if err != nil {
		return collisions, err
	}
	if n != owner.Collisions {
		collisions = &n
	}
	t.board = newBoard(newRules(set, current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]))
	c.failed.GC()
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return collisions, fmt.Errorf("list nodes: %w", err)
	}
	all := map[string]bool{}
	for _, node := range nodes {
		all[node.Name] = true
	}
	pods, err := c.pods.ByIndex(control.IndexController, string(set.UID))
	if err != nil {
		return collisions, fmt.Errorf("look up pods: %w", err)
	}
	for _, o := range pods {
		if pod, ok := o.(*corev1.Pod); ok {
			all[target(pod)] = true
		}
	}
	return collisions, c.judge(ctx, selector, t.board, all, time.Now())
}

// judge judges the nodes, and those that are due.
func (c *Controller) judge(ctx context.Context, selector labels.Selector, b *board, nodes map[string]bool, now time.Time) error {
	due, _ := b.due(now)
	for _, name := range due {
		if !nodes[name] {
			if err := c.judgeNode(ctx, selector, b, name, now); err != nil {
				return err
			}
		}
	}
	for name := range nodes {
		if err := c.judgeNode(ctx, selector, b, name, now); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) judgeNode(ctx context.Context, selector labels.Selector, b *board, name string, now time.Time) error {
	if name == "" { // an adopted pod that is for no node, until the scheduler has bound it
		return nil
	}
	node, err := c.nodes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get node %s: %w", name, err)
	}
	objs, err := c.pods.ByIndex(indexTarget, targetKey(b.set.UID, name))
	if err != nil {
		return fmt.Errorf("look up pods of node %s: %w", name, err)
	}
	pods := make([]*corev1.Pod, 0, len(objs))
	for _, o := range objs {
		if pod, ok := o.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	pods, err = c.claim(ctx, b.set, selector, pods)
	if err != nil {
		return fmt.Errorf("claim pods of node %s: %w", name, err)
	}
	b.put(name, node != nil, b.judge(node, pods, now), now)
	return nil
}

// act does what the board says.
func (c *Controller) act(ctx context.Context, b *board, now time.Time) error {
	p := b.plan()
	remove := append(p.remove, c.ended(b.set, p.ended, now)...)
	if len(p.create)+len(remove) == 0 {
		return nil
	}
	key := control.Key(b.set)
	uids := make([]types.UID, 0, len(remove))
	for _, pod := range remove {
		uids = append(uids, pod.UID)
	}
	c.expect.Expect(key, len(p.create), uids...)
	tried, createErr := control.InBatches(len(p.create), control.SlowStart, func(i int) error {
		err := c.create(ctx, b, p.create[i])
		if err != nil {
			c.expect.Created(key, 1)
		}
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return err
	})
	c.expect.Created(key, len(p.create)-tried)
	tried, removeErr := control.InBatches(len(remove), control.SlowStart, func(i int) error { return c.remove(ctx, b.set, remove[i]) })
	for _, uid := range uids[tried:] {
		c.expect.Deleted(key, uid)
	}
	return errors.Join(createErr, removeErr)
}

// ended reports the pods that have ended, and returns those to delete now: one that has
// failed waits for longer the more often that happens on its node.
func (c *Controller) ended(set *appsv1.DaemonSet, all []ended, now time.Time) []*corev1.Pod {
	var out []*corev1.Pod
	for _, e := range all {
		if e.pod.Status.Phase == corev1.PodSucceeded {
			c.events.Eventf(set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", e.pod.Namespace, e.pod.Name, e.node)
			out = append(out, e.pod)
			continue
		}
		id := targetKey(set.UID, e.node)
		if c.failed.IsInBackOffSinceUpdate(id, now) {
			c.loop.EnqueueAfter(control.Key(set), c.failed.Get(id))
			continue
		}
		c.failed.Next(id, now)
		c.events.Eventf(set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", e.pod.Namespace, e.pod.Name, e.node)
		out = append(out, e.pod)
	}
	return out
}

func (c *Controller) create(ctx context.Context, b *board, node string) error {
	pod, err := control.CreatePod(ctx, c.client, b.newPod(node))
	if err == nil {
		c.events.Eventf(b.set, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
		return nil
	}
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		c.events.Eventf(b.set, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	}
	return fmt.Errorf("create pod for node %s: %w", node, err)
}

func (c *Controller) remove(ctx context.Context, set *appsv1.DaemonSet, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err == nil {
		c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
		return nil
	}
	c.expect.Deleted(control.Key(set), pod.UID)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	c.events.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("delete pod %s: %w", control.Key(pod), err)
}

// truncate deletes old revisions. It is called when no pod of an old one is left to
// replace, so it looks at the pods only if there are more revisions than the limit.
func (c *Controller) truncate(ctx context.Context, set *appsv1.DaemonSet, selector labels.Selector, b *board) error {
	limit := ptr.Deref(set.Spec.RevisionHistoryLimit, 10)
	if c.revisions.Count(set.UID) <= int(limit)+1 {
		return nil
	}
	revs, err := c.revisions.Revisions(ctx, c.revisionsOf(set, selector))
	if err != nil {
		return err
	}
	pods, err := c.pods.ByIndex(control.IndexController, string(set.UID))
	if err != nil {
		return fmt.Errorf("look up pods: %w", err)
	}
	used := map[string]bool{b.hash: true}
	for _, o := range pods {
		if pod, ok := o.(*corev1.Pod); ok {
			used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
		}
	}
	live := func(r *appsv1.ControllerRevision) bool { return used[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] }
	return c.revisions.Truncate(ctx, revs, live, limit)
}
