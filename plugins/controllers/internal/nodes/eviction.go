package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Eviction is the controller that deletes pods from nodes with NoExecute taints
// which they do not tolerate, or no longer. Keys are pods; a pod that may stay
// for a time is looked at again when that ends.
type Eviction struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	lister corelisters.PodLister
	pods   cache.Indexer
	events record.EventRecorder
	log    *slog.Logger
	loop   *control.Loop

	mu     sync.Mutex
	noted  map[types.UID]time.Time // when a pod's taint without a time was first seen; guarded by mu
	tester logr.Logger
}

// NewEviction registers the controller's handlers; Run does the work.
func NewEviction(c *control.Context) (*Eviction, error) {
	core := c.Informers.Core().V1()
	e := &Eviction{
		client: c.Client, nodes: core.Nodes().Lister(), lister: core.Pods().Lister(), pods: core.Pods().Informer().GetIndexer(),
		events: c.Recorder("taint-eviction-controller"), log: c.Log, noted: map[types.UID]time.Time{}, tester: logr.Discard(),
	}
	e.loop = control.NewLoop(c, "tainteviction", 8, e.sync)
	_, err := control.Handle(core.Nodes().Informer(), e.enqueueNode, func(old, cur *corev1.Node) {
		if !equality.Semantic.DeepEqual(noExecute(old), noExecute(cur)) {
			e.enqueueNode(cur)
		}
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	_, err = control.Handle(core.Pods().Informer(), e.enqueuePod, func(old, cur *corev1.Pod) {
		if old.Spec.NodeName != cur.Spec.NodeName || !equality.Semantic.DeepEqual(old.Spec.Tolerations, cur.Spec.Tolerations) {
			e.enqueuePod(cur)
		}
	}, func(pod *corev1.Pod) { e.forget(pod.UID) })
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return e, nil
}

// Run works until ctx ends.
func (e *Eviction) Run(ctx context.Context) error { return e.loop.Run(ctx) }

func noExecute(n *corev1.Node) []corev1.Taint {
	return slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Effect != corev1.TaintEffectNoExecute })
}

func (e *Eviction) enqueueNode(n *corev1.Node) {
	objs, _ := e.pods.ByIndex(control.IndexNode, n.Name)
	for _, o := range objs {
		if pod, ok := o.(*corev1.Pod); ok {
			e.loop.Enqueue(pod)
		}
	}
}

func (e *Eviction) enqueuePod(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	if n, err := e.nodes.Get(pod.Spec.NodeName); err == nil && len(noExecute(n)) > 0 {
		e.loop.Enqueue(pod)
	}
}

func (e *Eviction) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	pod, err := e.lister.Pods(namespace).Get(name)
	if err != nil || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" || control.IsTerminal(pod) {
		return client404(err)
	}
	n, err := e.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return client404(err) // gone: the pod collector's matter
	}
	taints := noExecute(n)
	if len(taints) == 0 {
		e.forget(pod.UID)
		return nil
	}
	at, evict := e.deadline(pod, taints, time.Now())
	if !evict {
		return nil
	}
	if wait := time.Until(at); wait > 0 {
		e.loop.EnqueueAfter(key, wait)
		return nil
	}
	return e.evict(ctx, pod)
}

func client404(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// deadline is when the first of the taints is no longer tolerated. It returns
// false if all are for ever.
func (e *Eviction) deadline(pod *corev1.Pod, taints []corev1.Taint, now time.Time) (time.Time, bool) {
	var first time.Time
	found := false
	for i := range taints {
		seconds, forever := toleratedFor(e.tester, pod, &taints[i])
		if forever {
			continue
		}
		at := e.since(pod, &taints[i], now).Add(time.Duration(seconds) * time.Second)
		if !found || at.Before(first) {
			first, found = at, true
		}
	}
	return first, found
}

// toleratedFor is how long the pod tolerates the taint, in seconds.
func toleratedFor(log logr.Logger, pod *corev1.Pod, t *corev1.Taint) (seconds int64, forever bool) {
	for i := range pod.Spec.Tolerations {
		tol := &pod.Spec.Tolerations[i]
		if !tol.ToleratesTaint(log, t, true) {
			continue
		}
		if tol.TolerationSeconds == nil {
			return 0, true
		}
		return max(0, *tol.TolerationSeconds), false
	}
	return 0, false
}

// since is when the pod met the taint.
func (e *Eviction) since(pod *corev1.Pod, t *corev1.Taint, now time.Time) time.Time {
	if t.TimeAdded != nil {
		if pod.CreationTimestamp.After(t.TimeAdded.Time) {
			return pod.CreationTimestamp.Time
		}
		return t.TimeAdded.Time
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.noted[pod.UID].IsZero() {
		e.noted[pod.UID] = now
	}
	return e.noted[pod.UID]
}

func (e *Eviction) forget(uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.noted, uid)
}

func (e *Eviction) evict(ctx context.Context, pod *corev1.Pod) error {
	e.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", control.Key(pod))
	there, err := control.PatchCondition(ctx, e.client, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", ObservedGeneration: pod.Generation,
	})
	if !there || err != nil {
		return err
	}
	err = e.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("evict pod %s: %w", control.Key(pod), err)
	}
	e.log.Info("Pod evicted from a tainted node", "pod", control.Key(pod), "node", pod.Spec.NodeName)
	return nil
}
