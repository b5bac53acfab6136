package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	// burst bounds what one sync creates or deletes, so that one large set does
	// not keep the others waiting.
	burst = 500
)

// createError and deleteError tell the status which way manage went wrong.
type createError struct{ err error }

func (e *createError) Error() string { return e.err.Error() }
func (e *createError) Unwrap() error { return e.err }

type deleteError struct{ err error }

func (e *deleteError) Error() string { return e.err.Error() }
func (e *deleteError) Unwrap() error { return e.err }

func (c *Controller) manage(ctx context.Context, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := len(active) - int(ptr.Deref(rs.Spec.Replicas, 1))
	switch {
	case diff < 0:
		return c.create(ctx, rs, min(-diff, burst))
	case diff > 0:
		return c.remove(ctx, rs, active, min(diff, burst))
	}
	return nil
}

func (c *Controller) create(ctx context.Context, rs *appsv1.ReplicaSet, n int) error {
	key := control.Key(rs)
	c.expect.Expect(key, n)
	done, err := control.InBatches(n, control.SlowStart, func(int) error {
		pod, err := control.CreatePod(ctx, c.client, c.podFor(rs))
		if err == nil {
			c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
			return nil
		}
		c.expect.Created(key, 1)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		c.events.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return fmt.Errorf("create pod of %s %s: %w", c.kind.noun, key, err)
	})
	// Those not tried are not to come either.
	c.expect.Created(key, n-done)
	if err != nil {
		return &createError{err}
	}
	return nil
}

func (c *Controller) podFor(rs *appsv1.ReplicaSet) *corev1.Pod {
	t := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: rs.Name + "-", Namespace: rs.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			Finalizers: t.Finalizers, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, c.kind.GroupVersionKind)},
		},
		Spec: t.Spec,
	}
}

func (c *Controller) remove(ctx context.Context, rs *appsv1.ReplicaSet, active []*corev1.Pod, n int) error {
	key := control.Key(rs)
	victims := active
	if n < len(active) {
		victims = rankForDeletion(active, c.relatedPods(rs))[:n]
	}
	uids := make([]types.UID, 0, len(victims))
	for _, pod := range victims {
		uids = append(uids, pod.UID)
	}
	c.expect.Expect(key, 0, uids...)
	errs := make([]error, len(victims))
	var wg sync.WaitGroup
	for i, pod := range victims {
		wg.Go(func() {
			uid := pod.UID
			err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
			if err == nil {
				c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
				return
			}
			c.expect.Deleted(key, uid)
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return
			}
			c.events.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
			errs[i] = fmt.Errorf("delete pod %s: %w", control.Key(pod), err)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return &deleteError{err}
	}
	return nil
}

// relatedPods are the active pods of all sets with the same controller (the
// revisions of a deployment), by which nodes doubly used are found.
func (c *Controller) relatedPods(rs *appsv1.ReplicaSet) []*corev1.Pod {
	sets := []*appsv1.ReplicaSet{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		sets = sets[:0]
		objs, _ := c.setIndex.ByIndex(control.IndexController, string(ref.UID))
		for _, o := range objs {
			if s, ok := o.(*appsv1.ReplicaSet); ok {
				sets = append(sets, s)
			}
		}
	}
	var pods []*corev1.Pod
	for _, s := range sets {
		objs, _ := c.pods.ByIndex(control.IndexController, string(s.UID))
		for _, o := range objs {
			if pod, ok := o.(*corev1.Pod); ok && control.IsActive(pod) {
				pods = append(pods, pod)
			}
		}
	}
	return pods
}
