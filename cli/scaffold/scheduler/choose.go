package main

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

// choose gives the node for a pod: of those that it fits the one with the highest score.
// why says why there is none.
func choose(pod *corev1.Pod, nodes []*corev1.Node, placed []*corev1.Pod) (node, why string) {
	best := -1
	for _, n := range nodes {
		on := podsOn(n.Name, placed)
		if why = unfit(pod, n, on); why != "" {
			why = n.Name + ": " + why
			continue
		}
		if s := score(n, on); s > best {
			node, best = n.Name, s
		}
	}
	if node == "" && why == "" {
		why = "there are no nodes"
	}
	return node, why
}

// score says how well a node suits that a pod fits: from 0, the more the better.
func score(_ *corev1.Node, on []*corev1.Pod) int {
	return max(0, 1000-len(on))
}

// unfit says why a pod cannot run on a node; empty: it can.
func unfit(pod *corev1.Pod, n *corev1.Node, on []*corev1.Pod) string {
	if n.Spec.Unschedulable {
		return "is unschedulable"
	}
	for i := range n.Spec.Taints {
		if taint := &n.Spec.Taints[i]; taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
			return "has taint " + taint.ToString()
		}
	}
	if !labels.SelectorFromSet(pod.Spec.NodeSelector).Matches(labels.Set(n.Labels)) {
		return "does not match the node selector"
	}
	free := n.Status.Allocatable.DeepCopy()
	for _, p := range on {
		take(free, p)
	}
	take(free, pod)
	for resource, left := range free {
		if left.Sign() < 0 {
			return "has too little " + string(resource)
		}
	}
	return ""
}

func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Effect == "" || t.Effect == taint.Effect) && (t.Key == "" || t.Key == taint.Key) &&
			(t.Operator == corev1.TolerationOpExists || t.Value == taint.Value) {
			return true
		}
	}
	return false
}

// take subtracts what a pod asks for from what is free.
func take(free corev1.ResourceList, pod *corev1.Pod) {
	for _, c := range pod.Spec.Containers {
		for name, asked := range c.Resources.Requests {
			left := free[name]
			left.Sub(asked)
			free[name] = left
		}
	}
	left := free[corev1.ResourcePods]
	left.Sub(*resource.NewQuantity(1, resource.DecimalSI))
	free[corev1.ResourcePods] = left
}

func podsOn(node string, pods []*corev1.Pod) []*corev1.Pod {
	var on []*corev1.Pod
	for _, p := range pods {
		if p.Spec.NodeName == node && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			on = append(on, p)
		}
	}
	return on
}
