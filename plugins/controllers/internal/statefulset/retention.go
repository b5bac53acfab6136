package statefulset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// owners tells of what a claim of the pod is a dependent under the set's retention
// policy: of the set, to go with it; or of a pod that is being scaled away. The garbage
// collector does the rest.
func owners(set *appsv1.StatefulSet, pod *corev1.Pod) (bySet, byPod bool) {
	p := set.Spec.PersistentVolumeClaimRetentionPolicy
	if p == nil {
		return false, false
	}
	first, n := ordinals(set)
	i, ok := ordinal(set.Name, pod.Name)
	leaves := ok && (i < first || i >= first+n)
	byPod = leaves && p.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	bySet = !byPod && p.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	return bySet, byPod
}

// ownersFit tells whether the claim has the owners that it should. One that somebody
// else controls is left alone.
func ownersFit(c *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	if ref := metav1.GetControllerOfNoCopy(c); ref != nil && ref.UID != set.UID && ref.UID != pod.UID {
		return true
	}
	bySet, byPod := owners(set, pod)
	return controlled(c, set.UID) == bySet && controlled(c, pod.UID) == byPod &&
		(bySet || !owned(c, set.UID)) && (byPod || !owned(c, pod.UID))
}

func owned(c *corev1.PersistentVolumeClaim, uid types.UID) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == uid })
}

func controlled(c *corev1.PersistentVolumeClaim, uid types.UID) bool {
	ref := metav1.GetControllerOfNoCopy(c)
	return ref != nil && ref.UID == uid
}

// setOwners makes ownersFit true.
func setOwners(c *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) {
	c.OwnerReferences = slices.DeleteFunc(slices.Clone(c.OwnerReferences), func(r metav1.OwnerReference) bool {
		return r.UID == set.UID || r.UID == pod.UID
	})
	bySet, byPod := owners(set, pod)
	if bySet {
		c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(set, kind))
	}
	if byPod {
		c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(pod, podKind))
	}
}

// staleOwner tells whether the claim is a dependent of an earlier pod with the name,
// with which it goes. There is no pod of that name now.
func staleOwner(c *corev1.PersistentVolumeClaim, pod string) bool {
	return slices.ContainsFunc(c.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Kind == podKind.Kind && r.APIVersion == "v1" && r.Name == pod
	})
}
