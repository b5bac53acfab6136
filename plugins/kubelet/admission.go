package kubelet

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// admit says whether the node has room for a pod. A pod that has run here before is never turned away.
func (k *Kubelet) admit(pod *corev1.Pod, state *podState) (reason, message string, ok bool) {
	if len(state.Sandboxes) > 0 || len(pod.Status.ContainerStatuses) > 0 || pod.Status.StartTime != nil {
		return "", "", true
	}
	var others []*corev1.Pod
	k.mu.Lock()
	for uid, w := range k.workers {
		v := w.view.Load()
		// A worker that has not looked yet came later, or at the same time: the first to be admitted counts.
		if uid == pod.UID || v == nil || v.Ended || v.Status == nil || v.Status.Phase == corev1.PodFailed || v.Status.Phase == corev1.PodSucceeded {
			continue
		}
		others = append(others, v.Pod)
	}
	k.mu.Unlock()
	return fits(pod, others, k.allocatable())
}

// fits compares what pods ask for with what there is.
func fits(pod *corev1.Pod, others []*corev1.Pod, there corev1.ResourceList) (reason, message string, ok bool) {
	if most := there.Pods().Value(); int64(len(others))+1 > most {
		return "OutOfpods", fmt.Sprintf("Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), most), false
	}
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	need := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var names []corev1.ResourceName
	for name := range need {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		want, has := need[name], there[name]
		if want.IsZero() {
			continue
		}
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			if _, known := there[name]; !known {
				continue // extended resources are their device plugins' affair
			}
		}
		sum := used[name]
		sum.Add(want)
		if sum.Cmp(has) > 0 {
			u := used[name]
			return "OutOf" + string(name), fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, amount(name, want), amount(name, u), amount(name, has)), false
		}
	}
	return "", "", true
}

func amount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}
