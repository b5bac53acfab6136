package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
	"keelson.dev/keelson/core/registry/scale"
)

var replicaSets = &resource.Definition[*appsv1.ReplicaSet]{
	GroupVersion: version, Kind: "ReplicaSet", Plural: "replicasets", Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"},
	New:     func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
	NewList: func() runtime.Object { return &appsv1.ReplicaSetList{} },
	Gates:   podspec.TemplateGates,
	Default: func(r *appsv1.ReplicaSet) {
		podspec.SetDefaults(&r.Spec.Template.Spec)
		setDefault(&r.Spec.Replicas, 1)
	},
	Validate: func(r *appsv1.ReplicaSet) field.ErrorList {
		spec := field.NewPath("spec")
		errs := validateWorkload(r.Spec.Selector, &r.Spec.Template, "ReplicaSet", spec)
		errs = append(errs, nonNegative(int64(*r.Spec.Replicas), spec.Child("replicas"))...)
		return append(errs, nonNegative(int64(r.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	},
	ValidateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
		return sameSelector(r.Spec.Selector, old.Spec.Selector)
	},
	ValidateStatus: func(r, _ *appsv1.ReplicaSet) field.ErrorList {
		s, at := &r.Status, field.NewPath("status")
		errs := counts{"replicas": int64(s.Replicas), "fullyLabeledReplicas": int64(s.FullyLabeledReplicas), "readyReplicas": int64(s.ReadyReplicas),
			"availableReplicas": int64(s.AvailableReplicas), "observedGeneration": s.ObservedGeneration,
		}.validate([]string{"fullyLabeledReplicas", "readyReplicas", "availableReplicas"}, "replicas", at)
		if s.AvailableReplicas > s.ReadyReplicas {
			errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
		}
		return errs
	},
	Warnings:         func(r *appsv1.ReplicaSet) []string { return workloadWarnings(r.Name, &r.Spec.Template) },
	Spec:             func(r *appsv1.ReplicaSet) any { return &r.Spec },
	Status:           func(r *appsv1.ReplicaSet) any { return &r.Status },
	KeepStatusLabels: true,
	Columns: append([]metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Desired", "integer", "How many pods are wanted."),
		resource.Column("Current", "integer", "How many pods there are."),
		resource.Column("Ready", "integer", "How many pods are ready."),
		resource.AgeColumn,
	}, podspec.TemplateColumns...),
	Row: func(r *appsv1.ReplicaSet) []any {
		return append([]any{r.Name, int64(*r.Spec.Replicas), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), resource.Age(r)},
			podspec.SelectorCells(&r.Spec.Template, r.Spec.Selector)...)
	},
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"scale": scale.New(s, version, func(r *appsv1.ReplicaSet) scale.Fields {
			return scale.Fields{Replicas: &r.Spec.Replicas, Current: r.Status.Replicas, Selector: r.Spec.Selector}
		})}
	},
}
