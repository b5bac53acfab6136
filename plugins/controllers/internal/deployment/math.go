package deployment

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func isRolling(d *appsv1.Deployment) bool {
	return d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType
}

// fenceposts resolves maxSurge (rounded up) and maxUnavailable (rounded down).
// Both at 0 would stand still, so then one may be unavailable.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	if !isRolling(d) || d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	replicas := int(ptr.Deref(d.Spec.Replicas, 1))
	zero := intstr.FromInt32(0)
	s, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(d.Spec.Strategy.RollingUpdate.MaxSurge, zero), replicas, true)
	if err != nil {
		return 0, 1
	}
	u, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(d.Spec.Strategy.RollingUpdate.MaxUnavailable, zero), replicas, false)
	if err != nil {
		return 0, 1
	}
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(u)
}

func maxSurge(d *appsv1.Deployment) int32 {
	s, _ := fenceposts(d)
	return s
}

// maxUnavailable is bounded by the size of the deployment.
func maxUnavailable(d *appsv1.Deployment) int32 {
	if !isRolling(d) || ptr.Deref(d.Spec.Replicas, 1) == 0 {
		return 0
	}
	_, u := fenceposts(d)
	return min(u, ptr.Deref(d.Spec.Replicas, 1))
}

func specSum(sets []*appsv1.ReplicaSet) int32 {
	var n int32
	for _, rs := range sets {
		n += ptr.Deref(rs.Spec.Replicas, 1)
	}
	return n
}

// occupied is how many pods the sets may have at the moment: one that has just been made
// smaller still has those that it has not deleted yet.
func occupied(sets []*appsv1.ReplicaSet) int32 {
	var n int32
	for _, rs := range sets {
		n += max(ptr.Deref(rs.Spec.Replicas, 1), rs.Status.Replicas)
	}
	return n
}

// newSetSize is how large the new set may be now: the whole deployment, or what
// maxSurge leaves room for, never less than it is.
func newSetSize(d *appsv1.Deployment, all []*appsv1.ReplicaSet, cur int32) int32 {
	desired := ptr.Deref(d.Spec.Replicas, 1)
	if !isRolling(d) {
		return desired
	}
	room := desired + maxSurge(d) - occupied(all)
	if room <= 0 {
		return cur
	}
	return cur + min(room, desired-cur)
}

// proportion is the part of toAdd that a set gets when the deployment is scaled
// in the midst of a rollout. added is what other sets have got already.
func proportion(rs *appsv1.ReplicaSet, d *appsv1.Deployment, toAdd, added int32) int32 {
	if ptr.Deref(rs.Spec.Replicas, 1) == 0 || toAdd == 0 || toAdd == added {
		return 0
	}
	fraction := fractionOf(rs, d)
	left := toAdd - added
	if toAdd > 0 {
		return min(fraction, left)
	}
	return max(fraction, left)
}

// fractionOf is by how much the set changes if it keeps its share of the size
// that it was scaled for.
func fractionOf(rs *appsv1.ReplicaSet, d *appsv1.Deployment) int32 {
	cur, desired := ptr.Deref(rs.Spec.Replicas, 1), ptr.Deref(d.Spec.Replicas, 1)
	if desired == 0 {
		return -cur
	}
	was, ok := sizeOf(rs, maxAnnotation)
	if !ok || was == 0 {
		was = d.Status.Replicas
	}
	if was == 0 {
		was = 1
	}
	scaled := float64(cur) * float64(desired+maxSurge(d)) / float64(was)
	return int32(math.Round(scaled)) - cur
}
