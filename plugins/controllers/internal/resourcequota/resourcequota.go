// Package resourcequota keeps the status of ResourceQuotas: what is allowed, and
// what the objects of the namespace use of it.
//
// In: ResourceQuotas and Pods from shared informers; other kinds from informers
// that are started when the first quota names the kind, so a cluster without
// quotas watches nothing for them. Out: the status of quotas.
//
// Admission adds to the use before an object is written; this controller
// measures, and so takes off what has gone. It must not take off what was
// admitted and is not to be seen yet: while admission writes to a quota, use is
// not lowered (see settle).
package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	apiquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/proto/quota"
)

const (
	// settle is how long a quota must have been left alone by admission before
	// its use is lowered: what was admitted has been written by then, and has
	// come in through the watch.
	settle = 500 * time.Millisecond
	// patience is how long lowering waits at most for admission to pause.
	patience = 5 * time.Second
	// recheck is when a quota is measured again after its status changed: an
	// object that was admitted may have been refused later.
	recheck = time.Second
	// full is when a quota is measured again though nothing happened: pods that
	// outlive their grace period count no more.
	full = 5 * time.Minute
)

// Controller is the resourcequota controller.
type Controller struct {
	client  kubernetes.Interface
	quotas  corelisters.ResourceQuotaLister
	log     *slog.Logger
	loop    *control.Loop
	sources *sources

	mu    sync.Mutex
	state map[string]*state // of each quota; guarded by mu
}

// state is what is known of a quota beside its object.
type state struct {
	touched time.Time // when its status last changed
	lower   time.Time // since when its use is to be lowered; zero if it is not
}

// New registers the controller's handlers; Run does the work.
func New(c *control.Context) (*Controller, error) {
	quotas := c.Informers.Core().V1().ResourceQuotas()
	rc := &Controller{client: c.Client, quotas: quotas.Lister(), log: c.Log, state: map[string]*state{}}
	rc.loop = control.NewLoop(c, "resourcequota", 5, rc.sync)
	rc.sources = newSources(c, rc.enqueueNamespace)
	_, err := control.Handle(quotas.Informer(),
		func(q *corev1.ResourceQuota) { rc.loop.Enqueue(q) },
		rc.quotaUpdated,
		func(q *corev1.ResourceQuota) { rc.loop.Enqueue(q) })
	if err != nil {
		return nil, fmt.Errorf("watch resource quotas: %w", err)
	}
	_, err = control.Handle(c.Informers.Core().V1().Pods().Informer(), nil,
		func(old, cur *corev1.Pod) {
			now := metav1.Now()
			if quota.Terminal(old, now) != quota.Terminal(cur, now) || old.Generation != cur.Generation || old.Status.Phase != cur.Status.Phase {
				rc.enqueueNamespace(cur.Namespace)
			}
		},
		func(pod *corev1.Pod) { rc.enqueueNamespace(pod.Namespace) })
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return rc, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := c.loop.Run(ctx)
	c.sources.wait()
	return err
}

func (c *Controller) quotaUpdated(old, cur *corev1.ResourceQuota) {
	if !apiequality.Semantic.DeepEqual(old.Status, cur.Status) {
		c.mu.Lock()
		c.stateLocked(control.Key(cur)).touched = time.Now()
		c.mu.Unlock()
		c.loop.EnqueueAfter(control.Key(cur), recheck)
	}
	if !apiequality.Semantic.DeepEqual(old.Spec, cur.Spec) || old.UID != cur.UID {
		c.loop.Enqueue(cur)
	}
}

func (c *Controller) stateLocked(key string) *state {
	s := c.state[key]
	if s == nil {
		s = &state{}
		c.state[key] = s
	}
	return s
}

func (c *Controller) enqueueNamespace(namespace string) {
	list, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, q := range list {
		c.loop.Enqueue(q)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	q, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		delete(c.state, key)
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("get resource quota %s: %w", key, err)
	}
	registry, unknown, err := c.sources.registry(ctx, q.Spec.Hard)
	if err != nil {
		return fmt.Errorf("watch what resource quota %s counts: %w", key, err)
	}
	used, measureErr := apiquota.CalculateUsage(namespace, q.Spec.Scopes, q.Spec.Hard, registry, q.Spec.ScopeSelector)
	if measureErr != nil { // what could not be measured stays as it was
		used = apiquota.Mask(apiquota.Add(apiquota.Mask(q.Status.Used, missing(q, used)), used), apiquota.ResourceNames(q.Spec.Hard))
	}
	if err := c.write(ctx, q, used); err != nil {
		return err
	}
	if measureErr != nil {
		return fmt.Errorf("measure what resource quota %s counts: %w", key, measureErr)
	}
	if unknown {
		return &control.RetryAfter{After: unknownRetry, Reason: "resource quota " + key + " counts a kind that is not served"}
	}
	c.loop.EnqueueAfter(key, full)
	return nil
}

// missing are the quota's resources that used does not have.
func missing(q *corev1.ResourceQuota, used corev1.ResourceList) []corev1.ResourceName {
	return apiquota.Difference(apiquota.ResourceNames(q.Spec.Hard), apiquota.ResourceNames(used))
}

// write updates the status, if it is another, and if use may be lowered now.
func (c *Controller) write(ctx context.Context, q *corev1.ResourceQuota, used corev1.ResourceList) error {
	key := control.Key(q)
	if apiquota.Equals(q.Status.Used, used) && apiequality.Semantic.DeepEqual(q.Status.Hard, q.Spec.Hard) {
		c.mu.Lock()
		c.stateLocked(key).lower = time.Time{}
		c.mu.Unlock()
		return nil
	}
	if lower, _ := apiquota.LessThanOrEqual(q.Status.Used, used); !lower {
		if wait := c.settling(key); wait > 0 {
			return &control.RetryAfter{After: wait, Reason: "resource quota " + key + " is being written by admission"}
		}
	}
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: used}
	_, err := c.client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update status of resource quota %s: %w", key, err)
	}
	return nil
}

// settling tells how long use must not be lowered yet.
func (c *Controller) settling(key string) time.Duration {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stateLocked(key)
	if s.lower.IsZero() {
		s.lower = now
	}
	wait := s.touched.Add(settle).Sub(now)
	if wait > 0 && now.Sub(s.lower) < patience {
		return wait
	}
	s.lower = time.Time{}
	return 0
}
