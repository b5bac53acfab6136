// Package podgc deletes pods that nobody else will: those of nodes that no
// longer exist, those deleted before they were bound, those of nodes that are
// out of service, and the oldest ended ones when there are too many.
package podgc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// period is how often pods are looked over, from the cache.
	period = 20 * time.Second
	// quarantine is how long a node must be missing: it may register again.
	quarantine = 40 * time.Second
)

// Controller is the podgc controller.
type Controller struct {
	client     kubernetes.Interface
	pods       corelisters.PodLister
	nodes      corelisters.NodeLister
	log        *slog.Logger
	terminated int
	missing    map[string]time.Time // since when a node is missing; used by one goroutine
}

// New makes the controller. terminated is how many ended pods may stay; 0 is
// without limit.
func New(c *control.Context, terminated int) *Controller {
	core := c.Informers.Core().V1()
	return &Controller{client: c.Client, pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), log: c.Log, terminated: terminated, missing: map[string]time.Time{}}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if err := c.pass(ctx, time.Now()); err != nil && ctx.Err() == nil {
			c.log.Warn("Pods not collected", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *Controller) pass(ctx context.Context, now time.Time) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	gone, err := c.goneNodes(ctx, pods, now)
	errs := []error{err}
	var ended []*corev1.Pod
	for _, pod := range pods {
		switch {
		case gone[pod.Spec.NodeName]:
			errs = append(errs, c.remove(ctx, pod, "PodGC: node no longer exists"))
		case pod.DeletionTimestamp != nil && pod.Spec.NodeName == "":
			errs = append(errs, c.remove(ctx, pod, ""))
		case pod.DeletionTimestamp != nil && c.outOfService(pod.Spec.NodeName):
			errs = append(errs, c.remove(ctx, pod, "PodGC: node is out of service"))
		case control.IsTerminal(pod):
			ended = append(ended, pod)
		}
	}
	if n := len(ended) - c.terminated; c.terminated > 0 && n > 0 {
		slices.SortFunc(ended, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range ended[:n] {
			errs = append(errs, c.remove(ctx, pod, ""))
		}
	}
	return errors.Join(errs...)
}

// goneNodes are the nodes of pods that have been missing for the quarantine,
// and that the API server does not know either.
func (c *Controller) goneNodes(ctx context.Context, pods []*corev1.Pod, now time.Time) (map[string]bool, error) {
	still := map[string]time.Time{}
	for _, pod := range pods {
		name := pod.Spec.NodeName
		if _, done := still[name]; name == "" || done {
			continue
		}
		if _, err := c.nodes.Get(name); apierrors.IsNotFound(err) {
			still[name] = now
			if since, known := c.missing[name]; known {
				still[name] = since
			}
		}
	}
	c.missing = still
	gone := map[string]bool{}
	for name, since := range still {
		if now.Sub(since) < quarantine {
			continue
		}
		_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			gone[name] = true
		case err != nil:
			return gone, fmt.Errorf("get node %s: %w", name, err)
		}
	}
	return gone, nil
}

func (c *Controller) outOfService(node string) bool {
	n, err := c.nodes.Get(node)
	if err != nil {
		return false
	}
	ready, tainted := false, false
	for _, cond := range n.Status.Conditions {
		ready = ready || (cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue)
	}
	for _, t := range n.Spec.Taints {
		tainted = tainted || t.Key == corev1.TaintNodeOutOfService
	}
	return tainted && !ready
}

// remove deletes a pod at once. With a message it is marked first as failed by
// a disruption, so that its controller can tell.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod, message string) error {
	if message != "" && !control.IsTerminal(pod) {
		next := pod.DeepCopy()
		next.Status.Phase = corev1.PodFailed
		control.SetCondition(&next.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: message, ObservedGeneration: pod.Generation,
		}, metav1.Now())
		if _, err := c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("mark pod %s failed: %w", control.Key(pod), err)
		}
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s: %w", control.Key(pod), err)
	}
	c.log.Info("Pod collected", "pod", control.Key(pod), "reason", message)
	return nil
}
