package schedcheck

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// selects says whether a label selector matches; nil matches nothing.
func selects(s *metav1.LabelSelector, labels map[string]string) bool {
	if s == nil {
		return false
	}
	for k, v := range s.MatchLabels {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		if !holds(string(e.Operator), e.Key, e.Values, labels) {
			return false
		}
	}
	return true
}

// holds evaluates one requirement of a selector.
func holds(operator, key string, values []string, labels map[string]string) bool {
	have, ok := labels[key]
	switch operator {
	case "In":
		return ok && slices.Contains(values, have)
	case "NotIn":
		return !ok || !slices.Contains(values, have)
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	case "Gt", "Lt":
		n, err := strconv.ParseInt(have, 10, 64)
		if !ok || err != nil || len(values) != 1 {
			return false
		}
		limit, err := strconv.ParseInt(values[0], 10, 64)
		return err == nil && (operator == "Gt" && n > limit || operator == "Lt" && n < limit)
	}
	return false
}

// wantsNode says whether a pod's node selector and required node affinity match.
func wantsNode(pod *corev1.Pod, node *corev1.Node) bool {
	for k, v := range pod.Spec.NodeSelector {
		if have, ok := node.Labels[k]; !ok || have != v {
			return false
		}
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		if len(term.MatchExpressions)+len(term.MatchFields) == 0 {
			continue // an empty term matches nothing
		}
		all := true
		for _, e := range term.MatchExpressions {
			all = all && holds(string(e.Operator), e.Key, e.Values, node.Labels)
		}
		for _, e := range term.MatchFields {
			all = all && holds(string(e.Operator), e.Key, e.Values, map[string]string{"metadata.name": node.Name})
		}
		if all {
			return true
		}
	}
	return false
}

// tolerated says whether one of the pod's tolerations covers the taint.
func tolerated(pod *corev1.Pod, taint corev1.Taint) bool {
	for _, t := range pod.Spec.Tolerations {
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		if t.Operator == corev1.TolerationOpExists || (t.Operator == "" || t.Operator == corev1.TolerationOpEqual) && t.Key != "" && t.Value == taint.Value {
			return true
		}
	}
	return false
}

// toleratesAll says whether no taint of the node keeps the pod out.
func toleratesAll(pod *corev1.Pod, node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerated(pod, t) {
			return false
		}
	}
	return true
}

// withKeys is a selector with the pod's own values of some labels required or barred.
func withKeys(s *metav1.LabelSelector, pod *corev1.Pod, keys []string, op metav1.LabelSelectorOperator) *metav1.LabelSelector {
	if s == nil {
		return nil
	}
	s = s.DeepCopy()
	for _, k := range keys {
		if v, ok := pod.Labels[k]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
		}
	}
	return s
}
