// Package node describes the kind of the group node.k8s.io/v1, runtime classes.
package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{runtimeClasses}

var runtimeClasses = &resource.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", Plural: "runtimeclasses", Singular: "runtimeclass", ClusterScoped: true,
	New:      func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
	NewList:  func() runtime.Object { return &nodev1.RuntimeClassList{} },
	Validate: validate,
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		return apivalidation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Handler", "string", "The runtime's handler."), resource.AgeColumn},
	Row:     func(c *nodev1.RuntimeClass) []any { return []any{c.Name, c.Handler, resource.Age(c)} },
}

func validate(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if at := field.NewPath("handler"); c.Handler == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		for _, msg := range validation.IsDNS1123Label(c.Handler) {
			errs = append(errs, field.Invalid(at, c.Handler, msg))
		}
	}
	if c.Overhead != nil { // the path is upstream's
		errs = append(errs, podspec.ValidateResources(&corev1.ResourceRequirements{Limits: c.Overhead.PodFixed}, nil, field.NewPath("overhead"))...)
	}
	if c.Scheduling == nil {
		return errs
	}
	at := field.NewPath("scheduling")
	errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, at.Child("nodeSelector"))...)
	errs = append(errs, podspec.ValidateTolerations(c.Scheduling.Tolerations, at.Child("tolerations"))...)
	for i, t := range c.Scheduling.Tolerations {
		if slices.ContainsFunc(c.Scheduling.Tolerations[:i], func(u corev1.Toleration) bool { return apiequality.Semantic.DeepEqual(t, u) }) {
			errs = append(errs, field.Duplicate(at.Child("tolerations").Index(i), t))
		}
	}
	return errs
}
