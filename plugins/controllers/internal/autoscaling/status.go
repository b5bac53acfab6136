package autoscaling

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// setCondition says how the autoscaler stands.
func setCondition(h *autoscalingv2.HorizontalPodAutoscaler, t autoscalingv2.HorizontalPodAutoscalerConditionType, ok bool, now metav1.Time, reason, format string, args ...any) {
	status := corev1.ConditionFalse
	if ok {
		status = corev1.ConditionTrue
	}
	i := slices.IndexFunc(h.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == t })
	if i < 0 {
		h.Status.Conditions = append(h.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
		i = len(h.Status.Conditions) - 1
	}
	c := &h.Status.Conditions[i]
	if c.Status != status {
		c.Status, c.LastTransitionTime = status, now
	}
	c.Reason, c.Message = reason, fmt.Sprintf(format, args...)
}
