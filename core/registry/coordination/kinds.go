// Package coordination describes the kind of the group coordination.k8s.io/v1, leases.
package coordination

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{leases}

var leases = &resource.Definition[*coordinationv1.Lease]{
	GroupVersion: coordinationv1.SchemeGroupVersion, Kind: "Lease", Plural: "leases", Singular: "lease",
	CreateOnUpdate: true, NeedResourceVersion: true,
	New:     func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
	NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
	Gates:   []resource.Gate{{Feature: "CoordinatedLeaderElection", Fields: []string{"spec.strategy", "spec.preferredHolder"}}},
	// Coordinated leader election is in no stable version: its fields are kept only where they are.
	PrepareCreate: func(_ context.Context, l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil },
	PrepareUpdate: func(_ context.Context, l, old *coordinationv1.Lease) {
		if old.Spec.Strategy == nil && old.Spec.PreferredHolder == nil {
			l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil
		}
	},
	Validate: func(l *coordinationv1.Lease) field.ErrorList {
		spec := field.NewPath("spec")
		var errs field.ErrorList
		if v := l.Spec.LeaseDurationSeconds; v != nil && *v <= 0 {
			errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *v, "must be greater than 0"))
		}
		if v := l.Spec.LeaseTransitions; v != nil && *v < 0 {
			errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *v, "must be greater than or equal to 0"))
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Holder", "string", "Who has the lease."), resource.AgeColumn},
	Row: func(l *coordinationv1.Lease) []any {
		holder := ""
		if l.Spec.HolderIdentity != nil {
			holder = *l.Spec.HolderIdentity
		}
		return []any{l.Name, holder, resource.Age(l)}
	},
}
