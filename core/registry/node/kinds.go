// Package node describes the kind of the group node.k8s.io/v1, runtime classes.
package node

import (
	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{runtimeClasses}

var runtimeClasses = &resource.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion, Kind: "RuntimeClass", Plural: "runtimeclasses", Singular: "runtimeclass", ClusterScoped: true,
	New:     func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
	NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
	Validate: func(c *nodev1.RuntimeClass) field.ErrorList {
		at := field.NewPath("handler")
		if c.Handler == "" {
			return field.ErrorList{field.Required(at, "")}
		}
		var errs field.ErrorList
		for _, msg := range validation.IsDNS1123Label(c.Handler) {
			errs = append(errs, field.Invalid(at, c.Handler, msg))
		}
		return errs
	},
	ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
		return apivalidation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Handler", "string", "The runtime's handler."), resource.AgeColumn},
	Row:     func(c *nodev1.RuntimeClass) []any { return []any{c.Name, c.Handler, resource.Age(c)} },
}
