// Package policy describes the kinds of the group policy/v1. Evictions are a
// subresource of pods, in the core group's package.
package policy

import (
	"strconv"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{budgets}

var budgets = &resource.Definition[*policyv1.PodDisruptionBudget]{
	GroupVersion: policyv1.SchemeGroupVersion, Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets", Singular: "poddisruptionbudget", ShortNames: []string{"pdb"},
	New:      func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
	NewList:  func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
	Spec:     func(b *policyv1.PodDisruptionBudget) any { return &b.Spec },
	Status:   func(b *policyv1.PodDisruptionBudget) any { return &b.Status },
	Name:     func(name string, _ bool) []string { return content.IsPathSegmentName(name) },
	Validate: validate,
	ValidateStatus: func(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
		at := field.NewPath("status")
		errs := metav1validation.ValidateConditions(b.Status.Conditions, at.Child("conditions"))
		for child, v := range map[string]int32{"disruptionsAllowed": b.Status.DisruptionsAllowed, "currentHealthy": b.Status.CurrentHealthy,
			"desiredHealthy": b.Status.DesiredHealthy, "expectedPods": b.Status.ExpectedPods} {
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(v), at.Child(child))...)
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Min Available", "string", "How many pods must be left."),
		resource.Column("Max Unavailable", "string", "How many pods may be away."),
		resource.Column("Allowed Disruptions", "integer", "How many more pods may go now."),
		resource.AgeColumn,
	},
	Row: func(b *policyv1.PodDisruptionBudget) []any {
		return []any{b.Name, share(b.Spec.MinAvailable), share(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), resource.Age(b)}
	},
}

func validate(b *policyv1.PodDisruptionBudget) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(spec, b.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	for child, v := range map[string]*intstr.IntOrString{"minAvailable": b.Spec.MinAvailable, "maxUnavailable": b.Spec.MaxUnavailable} {
		switch {
		case v == nil:
		case v.Type == intstr.Int && v.IntVal < 0:
			errs = append(errs, field.Invalid(spec.Child(child), v.IntVal, "must be greater than or equal to 0"))
		case v.Type == intstr.String:
			for _, msg := range validation.IsValidPercent(v.StrVal) {
				errs = append(errs, field.Invalid(spec.Child(child), v.StrVal, msg))
			}
			if n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%")); err == nil && n > 100 {
				errs = append(errs, field.Invalid(spec.Child(child), v.StrVal, "must not be greater than 100%"))
			}
		}
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p != policyv1.AlwaysAllow && *p != policyv1.IfHealthyBudget {
		errs = append(errs, field.NotSupported(spec.Child("unhealthyPodEvictionPolicy"), *p,
			[]policyv1.UnhealthyPodEvictionPolicyType{policyv1.AlwaysAllow, policyv1.IfHealthyBudget}))
	}
	return append(errs, metav1validation.ValidateLabelSelector(b.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, spec.Child("selector"))...)
}

func share(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}
