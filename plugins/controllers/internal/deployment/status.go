package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Reasons of the Progressing condition, which kubectl rollout status reads.
const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
	reasonUpdated   = "ReplicaSetUpdated"
)

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func condition(s appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition replaces a condition unless status and reason are what they
// were. The transition time moves only with the status.
func (r *rollout) setCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(r.c.now())
	next := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if cur := condition(*s, t); cur != nil {
		if cur.Status == status && cur.Reason == reason {
			return
		}
		if cur.Status == status {
			next.LastTransitionTime = cur.LastTransitionTime
		}
	}
	removeCondition(s, t)
	s.Conditions = append(s.Conditions, next)
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(slices.Clone(s.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

func isComplete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	n := ptr.Deref(d.Spec.Replicas, 1)
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}

func hasProgressed(old, cur *appsv1.DeploymentStatus) bool {
	return cur.UpdatedReplicas > old.UpdatedReplicas ||
		cur.Replicas-cur.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		cur.ReadyReplicas > old.ReadyReplicas || cur.AvailableReplicas > old.AvailableReplicas
}

func hasTimedOut(d *appsv1.Deployment, s appsv1.DeploymentStatus, now time.Time) bool {
	cond := condition(s, appsv1.DeploymentProgressing)
	if cond == nil || !hasDeadline(d) || cond.Reason == reasonAvailable {
		return false
	}
	if cond.Reason == reasonTimedOut {
		return true
	}
	return cond.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Before(now)
}

// checkPaused marks the Progressing condition when the deployment is paused or
// resumed, so that the time in between does not count for the deadline.
func (r *rollout) checkPaused(ctx context.Context) error {
	if !hasDeadline(r.d) {
		return nil
	}
	cond := condition(r.d.Status, appsv1.DeploymentProgressing)
	if cond != nil && cond.Reason == reasonTimedOut {
		return nil
	}
	marked := cond != nil && cond.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !marked:
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && marked:
		r.setCondition(&r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	default:
		return nil
	}
	return r.writeStatus(ctx, r.d.Status)
}

// count makes the status from the sets; conditions other than Available are
// the caller's.
func (r *rollout) count() appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation, CollisionCount: r.d.Status.CollisionCount,
		Conditions: slices.Clone(r.d.Status.Conditions), TerminatingReplicas: ptr.To[int32](0),
	}
	for _, rs := range r.sets {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		switch {
		case rs.Status.TerminatingReplicas == nil:
			s.TerminatingReplicas = nil
		case s.TerminatingReplicas != nil:
			*s.TerminatingReplicas += *rs.Status.TerminatingReplicas
		}
	}
	if r.new != nil {
		s.UpdatedReplicas = r.new.Status.Replicas
	}
	s.UnavailableReplicas = max(0, specSum(r.sets)-s.AvailableReplicas)
	if s.AvailableReplicas >= ptr.Deref(r.d.Spec.Replicas, 1)-maxUnavailable(r.d) {
		r.setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.setCondition(&s, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	return s
}

// plainStatus writes the counts without judging progress.
func (r *rollout) plainStatus(ctx context.Context) error {
	return r.writeIfChanged(ctx, r.count())
}

// rolloutStatus writes the counts, and says in the Progressing condition
// whether the rollout is done, moves or is stuck.
func (r *rollout) rolloutStatus(ctx context.Context) error {
	s := r.count()
	if !hasDeadline(r.d) {
		removeCondition(&s, appsv1.DeploymentProgressing)
	}
	cur := condition(r.d.Status, appsv1.DeploymentProgressing)
	settled := s.Replicas == s.UpdatedReplicas && cur != nil && cur.Reason == reasonAvailable
	if hasDeadline(r.d) && !settled {
		r.judge(&s, cur)
	}
	r.copyFailure(&s)
	if equality.Semantic.DeepEqual(r.d.Status, s) {
		r.wakeAtDeadline(s)
		return nil
	}
	if err := r.writeIfChanged(ctx, s); err != nil {
		return err
	}
	r.wakeAtDeadline(r.d.Status)
	return nil
}

func (r *rollout) judge(s *appsv1.DeploymentStatus, cur *appsv1.DeploymentCondition) {
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.new.Name)
	}
	const progressing = appsv1.DeploymentProgressing
	switch {
	case isComplete(r.d, s):
		r.setCondition(s, progressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
	case hasProgressed(&r.d.Status, s):
		// Taken out first: the time of the last update is to move even if
		// status and reason do not, since the deadline counts from it.
		var since *metav1.Time
		if cur != nil && cur.Status == corev1.ConditionTrue {
			since = &cur.LastTransitionTime
		}
		removeCondition(s, progressing)
		r.setCondition(s, progressing, corev1.ConditionTrue, reasonUpdated, subject+" is progressing.")
		if since != nil {
			condition(*s, progressing).LastTransitionTime = *since
		}
	case hasTimedOut(r.d, *s, r.c.now()):
		r.setCondition(s, progressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
	}
}

// copyFailure takes the newest set's ReplicaFailure over, else an older one's.
func (r *rollout) copyFailure(s *appsv1.DeploymentStatus) {
	sets := r.old()
	if r.new != nil {
		sets = append(sets, r.new)
	}
	for _, rs := range slices.Backward(sets) {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				r.setCondition(s, appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	removeCondition(s, appsv1.DeploymentReplicaFailure)
}

// wakeAtDeadline syncs again when the deadline passes, as no event would tell.
func (r *rollout) wakeAtDeadline(s appsv1.DeploymentStatus) {
	cond := condition(s, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || cond == nil || cond.Reason == reasonTimedOut || isComplete(r.d, &s) {
		return
	}
	after := cond.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(r.c.now())
	r.c.loop.EnqueueAfter(control.Key(r.d), max(0, after)+time.Second)
}

func (r *rollout) writeIfChanged(ctx context.Context, s appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(r.d.Status, s) {
		return nil
	}
	return r.writeStatus(ctx, s)
}

func (r *rollout) writeStatus(ctx context.Context, s appsv1.DeploymentStatus) error {
	next := r.d.DeepCopy()
	next.Status = s
	d, err := r.c.client.AppsV1().Deployments(next.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	r.d = d
	return nil
}
