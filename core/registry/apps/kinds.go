// Package apps describes the kinds of the group apps/v1: deployments, replica
// sets, stateful sets, daemon sets and the revisions of the latter two.
package apps

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{deployments, replicaSets, statefulSets, daemonSets, controllerRevisions}

var version = appsv1.SchemeGroupVersion

// validateWorkload checks what all kinds with a selector and a template have in common.
func validateWorkload(selector *metav1.LabelSelector, t *corev1.PodTemplateSpec, kind string, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := spec.Child("selector")
	if selector == nil {
		if kind != "DaemonSet" {
			errs = append(errs, field.Required(at, ""))
		}
		// Nothing selects no pod, the template's among them.
		errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at)...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for "+kindOfSelector(kind)))
		}
		if s, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(at, selector, "invalid label selector"))
		} else if !s.Empty() && !s.Matches(labels.Set(t.Labels)) {
			errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
		}
	}
	errs = append(errs, podspec.ValidateTemplate(t, spec.Child("template"))...)
	if p := t.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("template", "spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("template", "spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kindOfDeadline(kind)+" is not Supported"))
	}
	return errs
}

// kindOfDeadline is how upstream calls a kind when it refuses a deadline: it
// judges a deployment's template as a replica set's.
func kindOfDeadline(kind string) string {
	if kind == "Deployment" {
		return "ReplicaSet"
	}
	return kind
}

// kindOfSelector is how upstream calls a kind when it refuses an empty selector: what it says of a replica set was copied.
func kindOfSelector(kind string) string {
	if kind == "ReplicaSet" {
		return "deployment"
	}
	return strings.ToLower(kind)
}

// counts are numbers of a status, by field.
type counts map[string]int64

// validate checks that none is negative, and that those of parts do not exceed what they are parts of.
func (c counts) validate(parts []string, whole string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, n := range c {
		errs = append(errs, nonNegative(n, at.Child(name))...)
	}
	for _, part := range parts {
		if c[part] > c[whole] {
			errs = append(errs, field.Invalid(at.Child(part), c[part], "cannot be greater than status."+whole))
		}
	}
	return errs
}

// optional is the number that a pointer points to.
func optional(p *int32) int64 {
	if p == nil {
		return 0
	}
	return int64(*p)
}

func nonNegative(v int64, at *field.Path) field.ErrorList {
	if v < 0 {
		return field.ErrorList{field.Invalid(at, v, "must be greater than or equal to 0")}
	}
	return nil
}

// validateShare checks a number or percentage of pods.
func validateShare(v *intstr.IntOrString, at *field.Path) field.ErrorList {
	if v == nil {
		return nil
	}
	if v.Type == intstr.Int {
		return nonNegative(int64(v.IntValue()), at)
	}
	var errs field.ErrorList
	for _, msg := range validation.IsValidPercent(v.StrVal) {
		errs = append(errs, field.Invalid(at, v, msg))
	}
	return errs
}

// workloadWarnings are shown to who creates a workload.
func workloadWarnings(name string, t *corev1.PodTemplateSpec) []string {
	return append(podspec.NameWarnings(name), podspec.TemplateWarnings(t, field.NewPath("spec", "template"))...)
}

// isZero says whether a share is 0 or 0%.
func isZero(v *intstr.IntOrString) bool {
	if v == nil {
		return true
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, 100, true)
	return err == nil && n == 0
}

// above says whether a share exceeds 100%.
func above(v *intstr.IntOrString) bool {
	if v == nil || v.Type == intstr.Int {
		return false
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, 100, true)
	return err == nil && n > 100
}

func sameSelector(now, was *metav1.LabelSelector) field.ErrorList {
	if metav1.FormatLabelSelector(now) != metav1.FormatLabelSelector(was) {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "selector"), now, "field is immutable")}
	}
	return nil
}

// defaultShare fills in a share of pods that may be away or surplus.
func defaultShare(p **intstr.IntOrString, v intstr.IntOrString) {
	if *p == nil {
		*p = &v
	}
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func ratio(a, b int32) string { return fmt.Sprintf("%d/%d", a, b) }
