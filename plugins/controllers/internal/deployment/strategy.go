package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// rolling does one step: grow the new set as far as maxSurge allows, else
// shrink old ones as far as maxUnavailable allows. The events that follow bring
// the next step.
func (r *rollout) rolling(ctx context.Context) error {
	if err := r.prepare(ctx, true); err != nil {
		return err
	}
	scaled, err := r.growNew(ctx)
	if err != nil {
		return err
	}
	if !scaled {
		if scaled, err = r.shrinkOld(ctx); err != nil {
			return err
		}
	}
	return r.finish(ctx, scaled)
}

// recreate first removes all old pods and waits until the last has gone.
func (r *rollout) recreate(ctx context.Context) error {
	if err := r.prepare(ctx, false); err != nil {
		return err
	}
	scaled := false
	for _, rs := range r.old() {
		if ptr.Deref(rs.Spec.Replicas, 1) == 0 {
			continue
		}
		if err := r.scaleTo(ctx, rs, 0); err != nil {
			return err
		}
		scaled = true
	}
	if scaled || r.oldPodsRun() {
		return r.rolloutStatus(ctx)
	}
	if r.new == nil {
		if err := r.prepare(ctx, true); err != nil {
			return err
		}
	}
	scaled, err := r.growNew(ctx)
	if err != nil {
		return err
	}
	return r.finish(ctx, scaled)
}

func (r *rollout) finish(ctx context.Context, scaled bool) error {
	if !scaled && isComplete(r.d, &r.d.Status) {
		if err := r.cleanup(ctx); err != nil {
			return err
		}
	}
	return r.rolloutStatus(ctx)
}

func (r *rollout) oldPodsRun() bool {
	for _, rs := range r.old() {
		objs, _ := r.c.pods.ByIndex(control.IndexController, string(rs.UID))
		for _, o := range objs {
			if pod, ok := o.(*corev1.Pod); ok && !control.IsTerminal(pod) {
				return true
			}
		}
	}
	return false
}

// growNew sets the new set's size: down at once when it is too large.
func (r *rollout) growNew(ctx context.Context) (bool, error) {
	cur, want := ptr.Deref(r.new.Spec.Replicas, 1), ptr.Deref(r.d.Spec.Replicas, 1)
	if cur < want {
		want = newSetSize(r.d, r.sets, cur)
	}
	if cur == want {
		return false, nil
	}
	return true, r.scaleTo(ctx, r.new, want)
}

// shrinkOld takes away what the new set's available pods make dispensable:
// first pods that are not available anyway, then the oldest sets'.
func (r *rollout) shrinkOld(ctx context.Context) (bool, error) {
	old := r.old()
	if specSum(old) == 0 {
		return false, nil
	}
	minAvailable := ptr.Deref(r.d.Spec.Replicas, 1) - maxUnavailable(r.d)
	newUnavailable := ptr.Deref(r.new.Spec.Replicas, 1) - r.new.Status.AvailableReplicas
	limit := specSum(r.sets) - minAvailable - newUnavailable
	if limit <= 0 {
		return false, nil
	}
	unhealthy, err := r.dropUnhealthy(ctx, old, limit)
	if err != nil {
		return false, err
	}
	var available int32
	for _, rs := range r.sets {
		available += rs.Status.AvailableReplicas
	}
	healthy, err := r.dropOldest(ctx, r.old(), available-minAvailable)
	return unhealthy+healthy > 0, err
}

func (r *rollout) dropUnhealthy(ctx context.Context, old []*appsv1.ReplicaSet, limit int32) (int32, error) {
	var total int32
	for _, rs := range old {
		size := ptr.Deref(rs.Spec.Replicas, 1)
		n := min(limit-total, size-rs.Status.AvailableReplicas)
		if n <= 0 {
			continue
		}
		if err := r.scaleTo(ctx, rs, size-n); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

func (r *rollout) dropOldest(ctx context.Context, old []*appsv1.ReplicaSet, limit int32) (int32, error) {
	var total int32
	for _, rs := range old {
		size := ptr.Deref(rs.Spec.Replicas, 1)
		n := min(limit-total, size)
		if n <= 0 {
			continue
		}
		if err := r.scaleTo(ctx, rs, size-n); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}
