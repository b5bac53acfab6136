package autoscaling

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// Annotations by which v1 carries what it has no fields for. They are never stored.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
	currentAnnotation    = "autoscaling.alpha.kubernetes.io/current-metrics"
)

// addV1 registers defaults and conversions of v1.
func addV1(s *runtime.Scheme) error {
	s.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscaler{}, func(obj any) { defaultV1(obj.(*autoscalingv1.HorizontalPodAutoscaler)) })
	s.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscalerList{}, func(obj any) {
		list := obj.(*autoscalingv1.HorizontalPodAutoscalerList)
		for i := range list.Items {
			defaultV1(&list.Items[i])
		}
	})
	for _, f := range []func() error{
		func() error {
			return s.AddConversionFunc((*autoscalingv1.HorizontalPodAutoscaler)(nil), (*hpa)(nil), func(in, out any, _ conversion.Scope) error {
				toV2(in.(*autoscalingv1.HorizontalPodAutoscaler), out.(*hpa))
				return nil
			})
		},
		func() error {
			return s.AddConversionFunc((*hpa)(nil), (*autoscalingv1.HorizontalPodAutoscaler)(nil), func(in, out any, _ conversion.Scope) error {
				return toV1(in.(*hpa), out.(*autoscalingv1.HorizontalPodAutoscaler))
			})
		},
		func() error {
			return s.AddConversionFunc((*autoscalingv1.HorizontalPodAutoscalerList)(nil), (*autoscalingv2.HorizontalPodAutoscalerList)(nil), func(in, out any, _ conversion.Scope) error {
				from, to := in.(*autoscalingv1.HorizontalPodAutoscalerList), out.(*autoscalingv2.HorizontalPodAutoscalerList)
				to.ListMeta, to.Items = from.ListMeta, make([]hpa, len(from.Items))
				for i := range from.Items {
					toV2(&from.Items[i], &to.Items[i])
				}
				return nil
			})
		},
		func() error {
			return s.AddConversionFunc((*autoscalingv2.HorizontalPodAutoscalerList)(nil), (*autoscalingv1.HorizontalPodAutoscalerList)(nil), func(in, out any, _ conversion.Scope) error {
				from, to := in.(*autoscalingv2.HorizontalPodAutoscalerList), out.(*autoscalingv1.HorizontalPodAutoscalerList)
				to.ListMeta, to.Items = from.ListMeta, make([]autoscalingv1.HorizontalPodAutoscaler, len(from.Items))
				for i := range from.Items {
					if err := toV1(&from.Items[i], &to.Items[i]); err != nil {
						return err
					}
				}
				return nil
			})
		},
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func defaultV1(h *autoscalingv1.HorizontalPodAutoscaler) {
	if h.Spec.MinReplicas == nil {
		h.Spec.MinReplicas = new(int32(1))
	}
	var metrics []autoscalingv1.MetricSpec
	read(h.Annotations, metricsAnnotation, &metrics)
	if h.Spec.TargetCPUUtilizationPercentage == nil && len(metrics) == 0 {
		h.Spec.TargetCPUUtilizationPercentage = new(int32(defaultUtilization))
	}
}

// read decodes an annotation. One that cannot be read says nothing, as upstream has it.
func read(annotations map[string]string, name string, into any) bool {
	text, ok := annotations[name]
	return ok && json.Unmarshal([]byte(text), into) == nil
}

func reference(r autoscalingv1.CrossVersionObjectReference) autoscalingv2.CrossVersionObjectReference {
	return autoscalingv2.CrossVersionObjectReference{Kind: r.Kind, Name: r.Name, APIVersion: r.APIVersion}
}

func referenceV1(r autoscalingv2.CrossVersionObjectReference) autoscalingv1.CrossVersionObjectReference {
	return autoscalingv1.CrossVersionObjectReference{Kind: r.Kind, Name: r.Name, APIVersion: r.APIVersion}
}

func toV2(in *autoscalingv1.HorizontalPodAutoscaler, out *hpa) {
	*out = hpa{ObjectMeta: in.ObjectMeta}
	out.Spec.ScaleTargetRef, out.Spec.MinReplicas, out.Spec.MaxReplicas = reference(in.Spec.ScaleTargetRef), in.Spec.MinReplicas, in.Spec.MaxReplicas
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas}

	var metrics []autoscalingv1.MetricSpec
	if read(in.Annotations, metricsAnnotation, &metrics) {
		for i := range metrics {
			out.Spec.Metrics = append(out.Spec.Metrics, metricToV2(&metrics[i]))
		}
	}
	if t := in.Spec.TargetCPUUtilizationPercentage; t != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuTarget(*t))
	}
	var behavior autoscalingv2.HorizontalPodAutoscalerBehavior
	if read(in.Annotations, behaviorAnnotation, &behavior) && (behavior.ScaleUp != nil || behavior.ScaleDown != nil) {
		out.Spec.Behavior = &behavior
		setDefaults(out) // v1 has no defaults for it
	}
	var conditions []autoscalingv2.HorizontalPodAutoscalerCondition
	if read(in.Annotations, conditionsAnnotation, &conditions) {
		out.Status.Conditions = conditions
	}
	currentToV2(in, out)
	out.Annotations = carried(in.Annotations)
}

// currentToV2 gathers the measured metrics. What the CPU's field says is among
// the annotation's as well, when that comes from a server.
func currentToV2(in *autoscalingv1.HorizontalPodAutoscaler, out *hpa) {
	var current []autoscalingv1.MetricStatus
	cpu := in.Status.CurrentCPUUtilizationPercentage
	if read(in.Annotations, currentAnnotation, &current) {
		for i := range current {
			m := statusToV2(&current[i])
			if r := m.Resource; r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil && cpu != nil {
				r.Current.AverageUtilization, cpu = cpu, nil
			}
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, m)
		}
	}
	if cpu != nil {
		out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, autoscalingv2.MetricStatus{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: cpu}}})
	}
}

// carried gives the annotations without those that stand for fields.
func carried(annotations map[string]string) map[string]string {
	own := []string{metricsAnnotation, behaviorAnnotation, conditionsAnnotation, currentAnnotation}
	for _, name := range own {
		if _, ok := annotations[name]; ok {
			rest := maps.Clone(annotations)
			for _, name := range own {
				delete(rest, name)
			}
			return rest
		}
	}
	return annotations
}

func toV1(in *hpa, out *autoscalingv1.HorizontalPodAutoscaler) error {
	*out = autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Annotations = carried(in.Annotations)
	out.Spec.ScaleTargetRef, out.Spec.MinReplicas, out.Spec.MaxReplicas = referenceV1(in.Spec.ScaleTargetRef), in.Spec.MinReplicas, in.Spec.MaxReplicas
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas}

	var others []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if out.Spec.TargetCPUUtilizationPercentage == nil && isCPU(m) {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
			continue
		}
		others = append(others, metricToV1(m))
	}
	var current []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU && m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, statusToV1(m))
	}
	own := false
	for _, a := range []struct {
		name  string
		given bool
		value any
	}{
		{metricsAnnotation, len(others) > 0, others},
		{currentAnnotation, len(current) > 0, current},
		{conditionsAnnotation, len(in.Status.Conditions) > 0, in.Status.Conditions},
		{behaviorAnnotation, in.Spec.Behavior != nil, behaviorText(in.Spec.Behavior)},
	} {
		if !a.given {
			continue
		}
		text, err := json.Marshal(a.value)
		if err != nil {
			return err
		}
		if !own {
			out.Annotations, own = maps.Clone(out.Annotations), true // those of the other object are not to be changed
		}
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, a.name, string(text))
	}
	return nil
}

func isCPU(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.AverageUtilization != nil
}

// The annotation of the behaviour has the fields in upper case.
type behaviorForm struct{ ScaleUp, ScaleDown *rulesForm }

type rulesForm struct {
	StabilizationWindowSeconds *int32
	SelectPolicy               *autoscalingv2.ScalingPolicySelect
	Policies                   []policyForm
	Tolerance                  *apiresource.Quantity
}

type policyForm struct {
	Type          autoscalingv2.HPAScalingPolicyType
	Value         int32
	PeriodSeconds int32
}

func behaviorText(b *autoscalingv2.HorizontalPodAutoscalerBehavior) *behaviorForm {
	if b == nil {
		return nil
	}
	rules := func(r *autoscalingv2.HPAScalingRules) *rulesForm {
		if r == nil {
			return nil
		}
		out := &rulesForm{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
		for _, p := range r.Policies {
			out.Policies = append(out.Policies, policyForm(p))
		}
		return out
	}
	return &behaviorForm{ScaleUp: rules(b.ScaleUp), ScaleDown: rules(b.ScaleDown)}
}
