package replicaset

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

func newStatus(rs *appsv1.ReplicaSet, active []*corev1.Pod, manageErr error, now time.Time) appsv1.ReplicaSetStatus {
	s := *rs.Status.DeepCopy()
	s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas = int32(len(active)), 0, 0, 0
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			s.FullyLabeledReplicas++
		}
		in, ready := control.AvailableIn(pod, rs.Spec.MinReadySeconds, now)
		if !ready {
			continue
		}
		s.ReadyReplicas++
		if in == 0 {
			s.AvailableReplicas++
		}
	}
	s.Conditions = failureCondition(s.Conditions, manageErr, now)
	return s
}

// failureCondition sets or removes ReplicaFailure. It stays as it was while the
// failure goes on.
func failureCondition(conds []appsv1.ReplicaSetCondition, err error, now time.Time) []appsv1.ReplicaSetCondition {
	at := -1
	for i := range conds {
		if conds[i].Type == appsv1.ReplicaSetReplicaFailure {
			at = i
		}
	}
	switch {
	case err == nil && at >= 0:
		return append(conds[:at], conds[at+1:]...)
	case err == nil || at >= 0:
		return conds
	}
	reason := "FailedDelete"
	if _, ok := errors.AsType[*createError](err); ok {
		reason = "FailedCreate"
	}
	return append(conds, appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
		Message: err.Error(), LastTransitionTime: metav1.NewTime(now),
	})
}

func (c *Controller) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet, s appsv1.ReplicaSetStatus) (*appsv1.ReplicaSet, error) {
	s.ObservedGeneration = rs.Generation
	if equality.Semantic.DeepEqual(rs.Status, s) {
		return rs, nil
	}
	next := rs.DeepCopy()
	next.Status = s
	updated, err := c.kind.updateStatus(ctx, next)
	if err == nil {
		return updated, nil
	}
	// Mostly a scale that came between. The counts are still right; the
	// generation seen is the one we worked from.
	fresh, getErr := c.kind.get(ctx, rs.Namespace, rs.Name)
	if getErr != nil || fresh.UID != rs.UID {
		return nil, err
	}
	fresh.Status = s
	return c.kind.updateStatus(ctx, fresh)
}

// nextAvailable is how long until the next ready pod becomes available.
func nextAvailable(active []*corev1.Pod, minReady int32, now time.Time) time.Duration {
	var next time.Duration
	for _, pod := range active {
		if in, ready := control.AvailableIn(pod, minReady, now); ready && in > 0 && (next == 0 || in < next) {
			next = in
		}
	}
	return next
}
