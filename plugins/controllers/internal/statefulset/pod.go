package statefulset

import (
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// ordinals returns the first ordinal and how many there are.
func ordinals(set *appsv1.StatefulSet) (first, n int) {
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	return first, int(ptr.Deref(set.Spec.Replicas, 1))
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// ordinal is that of a pod of the set with the name. A number written otherwise than a
// set would is not an ordinal, so no two names have the same.
func ordinal(set, pod string) (int, bool) {
	parent, i, ok := parseName(pod)
	return i, ok && parent == set
}

func parseName(pod string) (set string, ordinal int, ok bool) {
	at := strings.LastIndexByte(pod, '-')
	if at < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(pod[at+1:], 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != pod[at+1:] {
		return "", 0, false
	}
	return pod[:at], int(n), true
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

// newPod makes the pod of an ordinal from the template of a revision.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	t := template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: podName(set, ordinal), GenerateName: set.Name + "-", Namespace: set.Namespace,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Spec: t.Spec,
	}
	setIdentity(set, pod)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	setVolumes(set, pod)
	return pod
}

func identityFits(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	i, ok := ordinal(set.Name, pod.Name)
	return ok && pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name && pod.Labels[appsv1.PodIndexLabel] == strconv.Itoa(i)
}

func setIdentity(set *appsv1.StatefulSet, pod *corev1.Pod) {
	i, _ := ordinal(set.Name, pod.Name)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(i)
}

func claimName(template *corev1.PersistentVolumeClaim, pod string) string {
	return template.Name + "-" + pod
}

func volumesFit(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	claims := make(map[string]string, len(set.Spec.VolumeClaimTemplates))
	for i := range pod.Spec.Volumes {
		if c := pod.Spec.Volumes[i].PersistentVolumeClaim; c != nil {
			claims[pod.Spec.Volumes[i].Name] = c.ClaimName
		}
	}
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		if claims[t.Name] != claimName(t, pod.Name) {
			return false
		}
	}
	return true
}

// setVolumes puts the pod's claims in place of volumes with the same names.
func setVolumes(set *appsv1.StatefulSet, pod *corev1.Pod) {
	claimed := map[string]bool{}
	var volumes []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		claimed[t.Name] = true
		volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(t, pod.Name)},
		}})
	}
	for _, v := range pod.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
}

// newClaim makes the pod's claim of a template. It has its owners from the start.
func newClaim(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, pod *corev1.Pod) *corev1.PersistentVolumeClaim {
	c := template.DeepCopy()
	c.Name, c.Namespace = claimName(template, pod.Name), set.Namespace
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, set.Spec.Selector.MatchLabels)
	c.Status = corev1.PersistentVolumeClaimStatus{}
	if ownedBySet, _ := owners(set, pod); ownedBySet {
		c.OwnerReferences = append(c.OwnerReferences, *metav1.NewControllerRef(set, kind))
	}
	return c
}
