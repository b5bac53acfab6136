// Package disruption keeps the status of PodDisruptionBudgets: how many pods are
// healthy, how many must be, and so how many may be evicted now.
//
// In: PodDisruptionBudgets, Pods, ReplicaSets and Deployments from shared
// informers; the scale of other controllers from the API. Out: the status of
// budgets, and events on them. The eviction subresource spends what the status
// allows and notes the pod there; a budget is never computed from what was seen
// before that note, since the status is written under its resourceVersion.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// deletionTimeout is how long an evicted pod may take to be seen as deleted; it
// counts as healthy again after that.
const deletionTimeout = 2 * time.Minute

// Controller is the disruption controller.
type Controller struct {
	client  kubernetes.Interface
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	scales  *scales
	events  record.EventRecorder
	log     *slog.Logger
	loop    *control.Loop
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	budgets, pods := c.Informers.Policy().V1().PodDisruptionBudgets(), c.Informers.Core().V1().Pods()
	dc := &Controller{
		client: c.Client, budgets: budgets.Lister(), pods: pods.Lister(), scales: newScales(c),
		events: c.Recorder("controllermanager"), log: c.Log,
	}
	dc.loop = control.NewLoop(c, "disruption", 2, dc.sync)
	_, err := control.Handle(budgets.Informer(),
		func(b *policyv1.PodDisruptionBudget) { dc.loop.Enqueue(b) },
		func(_, b *policyv1.PodDisruptionBudget) { dc.loop.Enqueue(b) }, nil)
	if err != nil {
		return nil, fmt.Errorf("watch disruption budgets: %w", err)
	}
	_, err = control.Handle(pods.Informer(), dc.enqueueFor,
		func(old, cur *corev1.Pod) {
			dc.enqueueFor(cur)
			if !labels.Equals(old.Labels, cur.Labels) {
				dc.enqueueFor(old)
			}
		}, dc.enqueueFor)
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return dc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) enqueueFor(pod *corev1.Pod) {
	all, err := c.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, b := range all {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.Enqueue(b)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get disruption budget %s: %w", key, err)
	}
	status, again, err := c.compute(ctx, b)
	if err != nil {
		c.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return c.failSafe(ctx, b, err)
	}
	if err := c.write(ctx, b, status); err != nil {
		return err
	}
	if again > 0 {
		c.loop.EnqueueAfter(key, again)
	}
	return nil
}

// compute makes the status, and says when it is to be made again.
func (c *Controller) compute(ctx context.Context, b *policyv1.PodDisruptionBudget) (*policyv1.PodDisruptionBudgetStatus, time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, 0, fmt.Errorf("selector: %w", err)
	}
	pods, err := c.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return nil, 0, fmt.Errorf("list pods: %w", err)
	}
	if len(pods) == 0 {
		c.events.Eventf(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, err := c.wanted(ctx, b, pods)
	if err != nil {
		return nil, 0, err
	}
	now := time.Now()
	disrupted, again := stillDisrupted(b, pods, now)
	healthy := int32(0)
	for _, pod := range pods {
		_, evicted := disrupted[pod.Name]
		if pod.DeletionTimestamp == nil && !evicted && control.IsReady(pod) {
			healthy++
		}
	}
	allowed := max(0, healthy-desired)
	if expected <= 0 {
		allowed = 0
	}
	status := b.Status.DeepCopy()
	status.CurrentHealthy, status.DesiredHealthy, status.ExpectedPods = healthy, desired, expected
	status.DisruptionsAllowed, status.DisruptedPods, status.ObservedGeneration = allowed, disrupted, b.Generation
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason, ObservedGeneration: b.Generation}
	if allowed == 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	setCondition(&status.Conditions, condition, now)
	return status, again, nil
}

// stillDisrupted are the evicted pods whose deletion has not been seen, and when
// the first of them is given up.
func stillDisrupted(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (map[string]metav1.Time, time.Duration) {
	var out map[string]metav1.Time
	var again time.Duration
	for _, pod := range pods {
		at, ok := b.Status.DisruptedPods[pod.Name]
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(deletionTimeout).Sub(now)
		if left <= 0 {
			continue
		}
		if out == nil {
			out = map[string]metav1.Time{}
		}
		out[pod.Name] = at
		if again == 0 || left < again {
			again = left
		}
	}
	return out, again
}

// failSafe allows nothing while the budget cannot be computed.
func (c *Controller) failSafe(ctx context.Context, b *policyv1.PodDisruptionBudget, cause error) error {
	status := b.Status.DeepCopy()
	status.DisruptionsAllowed, status.ObservedGeneration = 0, b.Generation
	setCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: cause.Error(), ObservedGeneration: b.Generation,
	}, time.Now())
	if err := c.write(ctx, b, status); err != nil {
		return err
	}
	return fmt.Errorf("compute disruption budget %s: %w", control.Key(b), cause)
}

func (c *Controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget, status *policyv1.PodDisruptionBudgetStatus) error {
	if apiequality.Semantic.DeepEqual(&b.Status, status) {
		return nil
	}
	next := b.DeepCopy()
	next.Status = *status
	_, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status of disruption budget %s: %w", control.Key(b), err)
	}
	return nil
}

func setCondition(list *[]metav1.Condition, c metav1.Condition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for i := range *list {
		old := &(*list)[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	*list = append(*list, c)
}
