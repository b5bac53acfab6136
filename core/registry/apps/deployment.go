package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
	"keelson.dev/keelson/core/registry/scale"
)

var deployments = &resource.Definition[*appsv1.Deployment]{
	GroupVersion: version, Kind: "Deployment", Plural: "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
	New:      func() *appsv1.Deployment { return &appsv1.Deployment{} },
	NewList:  func() runtime.Object { return &appsv1.DeploymentList{} },
	Gates:    podspec.TemplateGates,
	Default:  defaultDeployment,
	Validate: validateDeployment,
	ValidateUpdate: func(d, old *appsv1.Deployment) field.ErrorList {
		return sameSelector(d.Spec.Selector, old.Spec.Selector)
	},
	Spec:             func(d *appsv1.Deployment) any { return &d.Spec },
	Status:           func(d *appsv1.Deployment) any { return &d.Status },
	KeepStatusLabels: true,
	PrepareStatus: func(_ context.Context, d, old *appsv1.Deployment) {
		if d.Status.ObservedGeneration >= 0 && d.Status.ObservedGeneration < old.Status.ObservedGeneration {
			d.Status.ObservedGeneration = old.Status.ObservedGeneration
		}
	},
	ValidateStatus: func(d, _ *appsv1.Deployment) field.ErrorList {
		s, at := &d.Status, field.NewPath("status")
		errs := counts{"replicas": int64(s.Replicas), "updatedReplicas": int64(s.UpdatedReplicas), "readyReplicas": int64(s.ReadyReplicas),
			"availableReplicas": int64(s.AvailableReplicas), "unavailableReplicas": int64(s.UnavailableReplicas),
			"observedGeneration": s.ObservedGeneration, "collisionCount": optional(s.CollisionCount),
		}.validate([]string{"updatedReplicas", "readyReplicas", "availableReplicas"}, "replicas", at)
		if s.AvailableReplicas > s.ReadyReplicas {
			errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
		}
		return errs
	},
	Warnings: func(d *appsv1.Deployment) []string { return workloadWarnings(d.Name, &d.Spec.Template) },
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Ready", "string", "Number of the pod with ready state"),
		resource.Column("Up-to-date", "string", "How many pods have the wanted template."),
		resource.Column("Available", "string", "How many pods have been ready for long enough."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(d *appsv1.Deployment) []any {
		return append([]any{d.Name, ratio(d.Status.ReadyReplicas, *d.Spec.Replicas), int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
			resource.Age(d)}, podspec.SelectorCells(&d.Spec.Template, d.Spec.Selector)...)
	},
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"scale": scale.New(s, version, func(d *appsv1.Deployment) scale.Fields {
			return scale.Fields{Replicas: &d.Spec.Replicas, Current: d.Status.Replicas, Selector: d.Spec.Selector}
		})}
	},
}

func defaultDeployment(d *appsv1.Deployment) {
	const progressDeadline, history = 600, 10
	podspec.SetDefaults(&d.Spec.Template.Spec)
	setDefault(&d.Spec.Replicas, 1)
	setDefault(&d.Spec.RevisionHistoryLimit, history)
	setDefault(&d.Spec.ProgressDeadlineSeconds, progressDeadline)
	s := &d.Spec.Strategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.RollingUpdate == nil {
			s.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		defaultShare(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		defaultShare(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateWorkload(d.Spec.Selector, &d.Spec.Template, "Deployment", spec)
	errs = append(errs, nonNegative(int64(*d.Spec.Replicas), spec.Child("replicas"))...)
	errs = append(errs, nonNegative(int64(d.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	errs = append(errs, nonNegative(int64(*d.Spec.RevisionHistoryLimit), spec.Child("revisionHistoryLimit"))...)
	errs = append(errs, nonNegative(int64(*d.Spec.ProgressDeadlineSeconds), spec.Child("progressDeadlineSeconds"))...)
	if *d.Spec.ProgressDeadlineSeconds <= d.Spec.MinReadySeconds {
		errs = append(errs, field.Invalid(spec.Child("progressDeadlineSeconds"), *d.Spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
	}
	s, at := &d.Spec.Strategy, spec.Child("strategy")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			errs = append(errs, field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return append(errs, field.Required(at.Child("rollingUpdate"), "this should be defaulted and never be nil"))
		}
		at = at.Child("rollingUpdate")
		errs = append(errs, validateShare(s.RollingUpdate.MaxUnavailable, at.Child("maxUnavailable"))...)
		errs = append(errs, validateShare(s.RollingUpdate.MaxSurge, at.Child("maxSurge"))...)
		if isZero(s.RollingUpdate.MaxUnavailable) && isZero(s.RollingUpdate.MaxSurge) {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
		}
		if above(s.RollingUpdate.MaxUnavailable) {
			errs = append(errs, field.Invalid(at.Child("maxUnavailable"), s.RollingUpdate.MaxUnavailable, "must not be greater than 100%"))
		}
	default:
		errs = append(errs, field.NotSupported(at, *s,
			[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
	return errs
}
