// Package storagemigration describes the kind of storagemigration.k8s.io/v1: a
// wish that all objects of a resource be written anew. Whoever grants it
// reports in the status.
package storagemigration

import (
	"context"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{migrations}

// migration names the kind for short.
type migration = storagemigrationv1.StorageVersionMigration

var migrations = &resource.Definition[*migration]{
	GroupVersion: storagemigrationv1.SchemeGroupVersion, Kind: "StorageVersionMigration", Plural: "storageversionmigrations",
	Singular: "storageversionmigration", ClusterScoped: true,
	New:           func() *migration { return &migration{} },
	NewList:       func() runtime.Object { return &storagemigrationv1.StorageVersionMigrationList{} },
	Status:        func(m *migration) any { return &m.Status },
	PrepareStatus: func(_ context.Context, m, old *migration) { m.Spec = old.Spec },
	Validate: func(m *migration) field.ErrorList {
		at := field.NewPath("spec", "resource")
		if m.Spec.Resource.Resource == "" {
			return field.ErrorList{field.Required(at.Child("resource"), "resource is required")}
		}
		var errs field.ErrorList
		for _, msg := range validation.IsDNS1123Label(m.Spec.Resource.Resource) {
			errs = append(errs, field.Invalid(at.Child("resource"), m.Spec.Resource.Resource, msg))
		}
		if group := m.Spec.Resource.Group; group != "" {
			for _, msg := range validation.IsDNS1123Subdomain(group) {
				errs = append(errs, field.Invalid(at.Child("group"), group, msg))
			}
		}
		return errs
	},
	ValidateUpdate: func(m, old *migration) field.ErrorList {
		return apivalidation.ValidateImmutableField(m.Spec.Resource, old.Spec.Resource, field.NewPath("spec", "resource"))
	},
	ValidateStatus: func(m, old *migration) field.ErrorList {
		at := field.NewPath("status")
		errs := metav1validation.ValidateConditions(m.Status.Conditions, at.Child("conditions"))
		done := func(s *storagemigrationv1.StorageVersionMigrationStatus, t storagemigrationv1.MigrationConditionType) bool {
			for _, c := range s.Conditions {
				if c.Type == string(t) && c.Status == metav1.ConditionTrue {
					return true
				}
			}
			return false
		}
		for _, t := range []storagemigrationv1.MigrationConditionType{storagemigrationv1.MigrationSucceeded, storagemigrationv1.MigrationFailed} {
			if done(&old.Status, t) && !done(&m.Status, t) {
				errs = append(errs, field.Invalid(at.Child("conditions"), m.Status.Conditions, string(t)+" condition cannot be set to false once it is true"))
			}
		}
		if done(&m.Status, storagemigrationv1.MigrationSucceeded) && done(&m.Status, storagemigrationv1.MigrationFailed) {
			errs = append(errs, field.Invalid(at.Child("conditions"), m.Status.Conditions, "Both success and failed conditions cannot be true at the same time"))
		}
		if old.Status.ResourceVersion != "" && m.Status.ResourceVersion != old.Status.ResourceVersion {
			errs = append(errs, field.Invalid(at.Child("resourceVersion"), m.Status.ResourceVersion, "field is immutable"))
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Resource", "string", "What is to be written anew."), resource.AgeColumn},
	Row: func(m *migration) []any {
		name := m.Spec.Resource.Resource
		if m.Spec.Resource.Group != "" {
			name += "." + m.Spec.Resource.Group
		}
		return []any{m.Name, name, resource.Age(m)}
	},
}
