package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the times of a behaviour, in seconds.
const (
	maxStabilization = 3600
	maxPeriod        = 1800
)

func validate(h *hpa) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	lowest := h.Spec.MinReplicas
	if lowest != nil && *lowest < 1 {
		errs = append(errs, field.Invalid(spec.Child("minReplicas"), *lowest, "must be greater than or equal to 1"))
	}
	if h.Spec.MaxReplicas < 1 {
		errs = append(errs, field.Required(spec.Child("maxReplicas"), "must be set and greater than 0"))
	}
	if lowest != nil && h.Spec.MaxReplicas < *lowest {
		errs = append(errs, field.Invalid(spec.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(&h.Spec.ScaleTargetRef, true, spec.Child("scaleTargetRef"))...)
	external := false
	for i := range h.Spec.Metrics {
		errs = append(errs, validateMetric(&h.Spec.Metrics[i], spec.Child("metrics").Index(i))...)
		t := h.Spec.Metrics[i].Type
		external = external || t == autoscalingv2.ObjectMetricSourceType || t == autoscalingv2.ExternalMetricSourceType
	}
	if lowest != nil && *lowest == 0 && !external {
		errs = append(errs, field.Forbidden(spec.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := h.Spec.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, spec.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, spec.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// validateReference checks what says which object is meant. The group has to
// be named, as the core group has nothing to scale but by old names.
func validateReference(r *autoscalingv2.CrossVersionObjectReference, scaled bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"kind", r.Kind}, {"name", r.Name}} {
		if f.value == "" {
			errs = append(errs, field.Required(at.Child(f.name), ""))
			continue
		}
		for _, msg := range content.IsPathSegmentName(f.value) {
			errs = append(errs, field.Invalid(at.Child(f.name), f.value, msg))
		}
	}
	if !scaled {
		return errs
	}
	if gv, err := schema.ParseGroupVersion(r.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, err.Error()))
	} else if gv.Group == "" && (r.APIVersion == "" || r.Kind != "ReplicationController") {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), r.APIVersion, "apiVersion must specify API group"))
	}
	return errs
}

var metricTypes = []autoscalingv2.MetricSourceType{
	autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
	autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType}

func validateMetric(m *autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric source type"))
	}
	given := map[autoscalingv2.MetricSourceType]bool{}
	if m.Object != nil {
		given[autoscalingv2.ObjectMetricSourceType] = true
		errs = append(errs, validateObjectMetric(m.Object, at.Child("object"))...)
	}
	if m.External != nil {
		given[autoscalingv2.ExternalMetricSourceType] = true
		errs = append(errs, validateExternalMetric(m.External, at.Child("external"))...)
	}
	if m.Pods != nil {
		given[autoscalingv2.PodsMetricSourceType] = true
		errs = append(errs, validateIdentifier(&m.Pods.Metric, at.Child("pods", "metric"))...)
		errs = append(errs, validateTarget(&m.Pods.Target, at.Child("pods", "target"))...)
		if m.Pods.Target.AverageValue == nil {
			errs = append(errs, field.Required(at.Child("pods", "target", "averageValue"), "must specify a positive target averageValue"))
		}
	}
	if r := m.Resource; r != nil {
		given[autoscalingv2.ResourceMetricSourceType] = true
		errs = append(errs, validateResourceMetric(string(r.Name), &r.Target, at.Child("resource"))...)
	}
	if r := m.ContainerResource; r != nil {
		given[autoscalingv2.ContainerResourceMetricSourceType] = true
		if r.Container == "" {
			errs = append(errs, field.Required(at.Child("containerResource", "container"), "must specify a container"))
		} else {
			for _, msg := range validation.IsDNS1123Label(r.Container) {
				errs = append(errs, field.Invalid(at.Child("containerResource", "container"), r.Container, msg))
			}
		}
		errs = append(errs, validateResourceMetric(string(r.Name), &r.Target, at.Child("containerResource"))...)
	}
	child := map[autoscalingv2.MetricSourceType]string{
		autoscalingv2.ObjectMetricSourceType: "object", autoscalingv2.ExternalMetricSourceType: "external", autoscalingv2.PodsMetricSourceType: "pods",
		autoscalingv2.ResourceMetricSourceType: "resource", autoscalingv2.ContainerResourceMetricSourceType: "containerResource"}
	if child[m.Type] == "" {
		fault := field.NotSupported(at.Child("type"), m.Type, metricTypes)
		return append(errs, fault, fault) // upstream says it twice
	}
	if !given[m.Type] {
		errs = append(errs, field.Required(at.Child(child[m.Type]), "must populate information for the given metric source"))
	}
	for _, t := range metricTypes {
		if given[t] && t != m.Type && given[m.Type] {
			errs = append(errs, field.Forbidden(at.Child(child[t]), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateObjectMetric(o *autoscalingv2.ObjectMetricSource, at *field.Path) field.ErrorList {
	errs := validateReference(&o.DescribedObject, false, at.Child("describedObject"))
	errs = append(errs, validateIdentifier(&o.Metric, at.Child("metric"))...)
	errs = append(errs, validateTarget(&o.Target, at.Child("target"))...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func validateExternalMetric(e *autoscalingv2.ExternalMetricSource, at *field.Path) field.ErrorList {
	errs := validateIdentifier(&e.Metric, at.Child("metric"))
	errs = append(errs, validateTarget(&e.Target, at.Child("target"))...)
	switch {
	case e.Target.Value == nil && e.Target.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case e.Target.Value != nil && e.Target.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func validateResourceMetric(name string, t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
	}
	errs = append(errs, validateTarget(t, at.Child("target"))...)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func validateIdentifier(m *autoscalingv2.MetricIdentifier, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), "must specify a metric name"))
	} else {
		for _, msg := range content.IsPathSegmentName(m.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, msg))
		}
	}
	return errs
}

func validateTarget(t *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	positive := func(q *apiresource.Quantity, p *field.Path) {
		if q != nil && q.Sign() != 1 {
			errs = append(errs, field.Invalid(p, q, "must be positive"))
		}
	}
	positive(t.Value, at.Child("value"))
	positive(t.AverageValue, at.Child("averageValue"))
	if u := t.AverageUtilization; u != nil && *u < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *u, "must be greater than 0"))
	}
	return errs
}

func validateRules(r *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if s := r.StabilizationWindowSeconds; s != nil && *s < 0 {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *s, "must be greater than or equal to zero"))
	} else if s != nil && *s > maxStabilization {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *s, "must be less than or equal to 3600"))
	}
	if p := r.SelectPolicy; p != nil {
		switch *p {
		case autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect:
		default:
			errs = append(errs, field.NotSupported(at.Child("selectPolicy"), *p, []autoscalingv2.ScalingPolicySelect{
				autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect}))
		}
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), t, "must be greater than or equal to 0"))
	}
	policies := at.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(policies, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		one := policies.Index(i)
		if p.Type != autoscalingv2.PodsScalingPolicy && p.Type != autoscalingv2.PercentScalingPolicy {
			errs = append(errs, field.NotSupported(one.Child("type"), p.Type,
				[]autoscalingv2.HPAScalingPolicyType{autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy}))
		}
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(one.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(one.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		} else if p.PeriodSeconds > maxPeriod {
			errs = append(errs, field.Invalid(one.Child("periodSeconds"), p.PeriodSeconds, "must be less than or equal to 1800"))
		}
	}
	return errs
}
