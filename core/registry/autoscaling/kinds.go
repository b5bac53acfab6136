// Package autoscaling describes the HorizontalPodAutoscaler, which is stored as
// autoscaling/v2 and served as v1, too: what v1 has no fields for is in its
// annotations there.
package autoscaling

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group; the second is the first in another version.
var Kinds = []resource.Kind{autoscalers, &resource.Alias{
	Group: autoscalingv2.GroupName, Of: "horizontalpodautoscalers", GroupVersion: autoscalingv1.SchemeGroupVersion,
	Plural: "horizontalpodautoscalers", Scheme: addV1,
}}

// hpa names the kind for short.
type hpa = autoscalingv2.HorizontalPodAutoscaler

var autoscalers = &resource.Definition[*hpa]{
	GroupVersion: autoscalingv2.SchemeGroupVersion, OtherVersions: []schema.GroupVersion{autoscalingv1.SchemeGroupVersion},
	Kind: "HorizontalPodAutoscaler", Plural: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
	ShortNames: []string{"hpa"}, Categories: []string{"all"},
	New:      func() *hpa { return &hpa{} },
	NewList:  func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
	Default:  setDefaults,
	Validate: validate,
	// As upstream, autoscalers have no generation.
	Status: func(h *hpa) any { return &h.Status },
	PrepareStatus: func(_ context.Context, h, old *hpa) {
		h.Spec = old.Spec
	},
	ValidateStatus: func(h, _ *hpa) field.ErrorList {
		status := field.NewPath("status")
		return append(notNegative(h.Status.CurrentReplicas, status.Child("currentReplicas")),
			notNegative(h.Status.DesiredReplicas, status.Child("desiredReplicas"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Reference", "string", "What is scaled."),
		resource.Column("Targets", "string", "What is measured, and what is aimed at."),
		resource.Column("MinPods", "string", "How many pods there are at least."),
		resource.Column("MaxPods", "string", "How many pods there are at most."),
		resource.Column("Replicas", "string", "How many pods there are."),
		resource.AgeColumn,
	},
	Row: func(h *hpa) []any {
		lowest := "<unset>"
		if h.Spec.MinReplicas != nil {
			lowest = strconv.Itoa(int(*h.Spec.MinReplicas))
		}
		return []any{h.Name, h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, targets(h), lowest,
			int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), resource.Age(h)}
	},
}

// defaultUtilization is the part of the requested CPU, in percent, that is
// aimed at by who names no metric.
const defaultUtilization = 80

func setDefaults(h *hpa) {
	if h.Spec.MinReplicas == nil {
		h.Spec.MinReplicas = new(int32(1))
	}
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuTarget(defaultUtilization)}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	const period, pods, percent = 15, 4, 100
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: percent, PeriodSeconds: period}
	b.ScaleUp = defaultRules(b.ScaleUp, []autoscalingv2.HPAScalingPolicy{
		{Type: autoscalingv2.PodsScalingPolicy, Value: pods, PeriodSeconds: period}, double})
	if b.ScaleUp.StabilizationWindowSeconds == nil {
		b.ScaleUp.StabilizationWindowSeconds = new(int32(0))
	}
	b.ScaleDown = defaultRules(b.ScaleDown, []autoscalingv2.HPAScalingPolicy{double})
}

func defaultRules(r *autoscalingv2.HPAScalingRules, policies []autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	if r == nil {
		r = &autoscalingv2.HPAScalingRules{}
	}
	if r.SelectPolicy == nil {
		r.SelectPolicy = new(autoscalingv2.MaxChangePolicySelect)
	}
	if r.Policies == nil {
		r.Policies = policies
	}
	return r
}

func cpuTarget(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}
}

func notNegative(v int32, at *field.Path) field.ErrorList {
	if v < 0 {
		return field.ErrorList{field.Invalid(at, v, "must be greater than or equal to 0")}
	}
	return nil
}

// shownMetrics is how many metrics a table shows.
const shownMetrics = 2

func targets(h *hpa) string {
	var list []string
	for i, m := range h.Spec.Metrics {
		var now autoscalingv2.MetricStatus
		if i < len(h.Status.CurrentMetrics) {
			now = h.Status.CurrentMetrics[i]
		}
		list = append(list, target(&m, &now))
	}
	if len(list) == 0 {
		return "<none>"
	}
	more := ""
	if n := len(list); n > shownMetrics {
		list, more = list[:shownMetrics], fmt.Sprintf(" + %d more...", n-shownMetrics)
	}
	return strings.Join(list, ", ") + more
}

// target tells of one metric what is and what ought to be.
func target(m *autoscalingv2.MetricSpec, now *autoscalingv2.MetricStatus) string {
	amount := func(want *autoscalingv2.MetricTarget, is *autoscalingv2.MetricValueStatus) string {
		text := "<unknown>"
		switch {
		case want.AverageValue != nil:
			if is != nil && is.AverageValue != nil {
				text = is.AverageValue.String()
			}
			return text + "/" + want.AverageValue.String()
		case want.Value != nil:
			if is != nil && is.Value != nil {
				text = is.Value.String()
			}
			return text + "/" + want.Value.String()
		}
		if is != nil && is.AverageUtilization != nil {
			text = fmt.Sprintf("%d%%", *is.AverageUtilization)
		}
		if want.AverageUtilization == nil {
			return text + "/<auto>"
		}
		return fmt.Sprintf("%s/%d%%", text, *want.AverageUtilization)
	}
	averaged := func(t *autoscalingv2.MetricTarget, text string) string {
		if t.AverageValue != nil {
			return text + " (avg)"
		}
		return text
	}
	var is *autoscalingv2.MetricValueStatus
	switch {
	case m.External != nil:
		if now.External != nil {
			is = &now.External.Current
		}
		return averaged(&m.External.Target, amount(&m.External.Target, is))
	case m.Pods != nil:
		if now.Pods != nil {
			is = &now.Pods.Current
		}
		return amount(&m.Pods.Target, is)
	case m.Object != nil:
		if now.Object != nil {
			is = &now.Object.Current
		}
		return averaged(&m.Object.Target, amount(&m.Object.Target, is))
	case m.Resource != nil:
		if now.Resource != nil {
			is = &now.Resource.Current
		}
		return string(m.Resource.Name) + ": " + amount(&m.Resource.Target, is)
	case m.ContainerResource != nil:
		if now.ContainerResource != nil {
			is = &now.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + amount(&m.ContainerResource.Target, is)
	}
	return "<unknown type>"
}
