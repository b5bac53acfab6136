package deployment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// isScaling tells whether the deployment's size changed since its sets were
// scaled last.
func (r *rollout) isScaling() bool {
	r.new = findNew(r.d, r.sets)
	for _, rs := range r.sets {
		if ptr.Deref(rs.Spec.Replicas, 1) == 0 {
			continue
		}
		if n, ok := sizeOf(rs, desiredAnnotation); ok && n != ptr.Deref(r.d.Spec.Replicas, 1) {
			return true
		}
	}
	return false
}

// scaleOnly serves a change of size, and all of a paused deployment: it never
// starts or goes on with a rollout.
func (r *rollout) scaleOnly(ctx context.Context) error {
	if err := r.prepare(ctx, false); err != nil {
		return err
	}
	if err := r.scale(ctx); err != nil {
		return err
	}
	if r.d.Spec.Paused {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.plainStatus(ctx)
}

func (r *rollout) scale(ctx context.Context) error {
	desired := ptr.Deref(r.d.Spec.Replicas, 1)
	if rs, ok := r.onlyActive(); ok {
		if rs == nil {
			return nil
		}
		return r.scaleTo(ctx, rs, desired)
	}
	if r.isSaturated() {
		for _, rs := range r.old() {
			if ptr.Deref(rs.Spec.Replicas, 1) > 0 {
				if err := r.scaleTo(ctx, rs, 0); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if !isRolling(r.d) {
		return nil
	}
	return r.scaleProportionally(ctx)
}

// onlyActive returns the one set with replicas, or, if none has any, the new
// one or the latest. It returns false if several are active.
func (r *rollout) onlyActive() (*appsv1.ReplicaSet, bool) {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.sets {
		if ptr.Deref(rs.Spec.Replicas, 1) > 0 {
			active = append(active, rs)
		}
	}
	switch {
	case len(active) == 1:
		return active[0], true
	case len(active) > 1:
		return nil, false
	case r.new != nil:
		return r.new, true
	}
	if old := r.old(); len(old) > 0 {
		return old[len(old)-1], true
	}
	return nil, true
}

func (r *rollout) isSaturated() bool {
	if r.new == nil {
		return false
	}
	want := ptr.Deref(r.d.Spec.Replicas, 1)
	n, ok := sizeOf(r.new, desiredAnnotation)
	return ok && n == want && ptr.Deref(r.new.Spec.Replicas, 1) == want && r.new.Status.AvailableReplicas == want
}

// scaleProportionally spreads a change of size over the active sets in the
// ratio of their sizes, so that a rollout half done stays half done.
func (r *rollout) scaleProportionally(ctx context.Context) error {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.sets {
		if ptr.Deref(rs.Spec.Replicas, 1) > 0 {
			active = append(active, rs)
		}
	}
	desired := ptr.Deref(r.d.Spec.Replicas, 1)
	var allowed int32
	if desired > 0 {
		allowed = desired + maxSurge(r.d)
	}
	toAdd := allowed - specSum(active)
	// The largest first; among equals the newer grows and the older shrinks.
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byCreation(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(ptr.Deref(b.Spec.Replicas, 1), ptr.Deref(a.Spec.Replicas, 1)), age)
	})
	sizes := make([]int32, len(active))
	var added int32
	for i, rs := range active {
		p := proportion(rs, r.d, toAdd, added)
		sizes[i] = ptr.Deref(rs.Spec.Replicas, 1) + p
		added += p
	}
	if len(active) > 0 {
		sizes[0] = max(0, sizes[0]+toAdd-added)
	}
	for i, rs := range active {
		if err := r.scaleTo(ctx, rs, sizes[i]); err != nil {
			return err
		}
	}
	return nil
}

// scaleTo sets a set's size and notes what it was scaled for.
func (r *rollout) scaleTo(ctx context.Context, rs *appsv1.ReplicaSet, n int32) error {
	was, desired := ptr.Deref(rs.Spec.Replicas, 1), ptr.Deref(r.d.Spec.Replicas, 1)
	next := rs.DeepCopy()
	if !setSizes(next, desired, desired+maxSurge(r.d)) && was == n {
		return nil
	}
	next.Spec.Replicas = &n
	updated, err := r.c.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("scale replica set %s: %w", rs.Name, err)
	}
	r.replace(updated)
	if was != n {
		verb := "up"
		if n < was {
			verb = "down"
		}
		r.c.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", verb, rs.Name, was, n)
	}
	return nil
}

// cleanup removes the oldest revisions beyond revisionHistoryLimit that have no
// pods.
func (r *rollout) cleanup(ctx context.Context) error {
	limit := ptr.Deref(r.d.Spec.RevisionHistoryLimit, 10)
	var old []*appsv1.ReplicaSet
	for _, rs := range r.old() {
		if rs.DeletionTimestamp == nil {
			old = append(old, rs)
		}
	}
	excess := len(old) - int(limit)
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(old, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revisionOf(a.Annotations), revisionOf(b.Annotations)), byCreation(a, b))
	})
	var errs []error
	for _, rs := range old[:excess] {
		if rs.Status.Replicas != 0 || ptr.Deref(rs.Spec.Replicas, 1) != 0 || rs.Generation > rs.Status.ObservedGeneration {
			continue
		}
		uid := rs.UID
		err := r.c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete old replica set %s: %w", rs.Name, err))
		}
	}
	return errors.Join(errs...)
}
