// Package scheduling describes the kind of the group scheduling.k8s.io/v1,
// priority classes. SystemClasses are those that every cluster has; whoever
// starts the server makes them.
package scheduling

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

const (
	// HighestUserPriority is the highest that users may define.
	HighestUserPriority = int32(1000000000)
	// SystemCritical is the priority of system-cluster-critical.
	SystemCritical = 2 * HighestUserPriority
	// SystemPrefix begins the names of the classes that the system has.
	SystemPrefix = "system-"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{priorityClasses}

// SystemClasses gives the classes that every cluster has.
func SystemClasses() []*schedulingv1.PriorityClass {
	return []*schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: SystemCritical + 1000,
			Description: "Used for system critical pods that must not be moved from their current node."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: SystemCritical,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
	}
}

var priorityClasses = &resource.Definition[*schedulingv1.PriorityClass]{
	GroupVersion: schedulingv1.SchemeGroupVersion, Kind: "PriorityClass", Plural: "priorityclasses", Singular: "priorityclass", ShortNames: []string{"pc"},
	ClusterScoped: true,
	New:           func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
	NewList:       func() runtime.Object { return &schedulingv1.PriorityClassList{} },
	Default: func(p *schedulingv1.PriorityClass) {
		if p.PreemptionPolicy == nil {
			policy := corev1.PreemptLowerPriority
			p.PreemptionPolicy = &policy
		}
	},
	PrepareCreate: func(_ context.Context, p *schedulingv1.PriorityClass) { p.Generation = 1 },
	Validate: func(p *schedulingv1.PriorityClass) field.ErrorList {
		var errs field.ErrorList
		if strings.HasPrefix(p.Name, SystemPrefix) {
			errs = validateSystem(p)
		} else if p.ResourceVersion == "" && p.Value > HighestUserPriority {
			errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
		}
		if policy := p.PreemptionPolicy; policy != nil && *policy == "" {
			errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
		} else if policy != nil && *policy != corev1.PreemptLowerPriority && *policy != corev1.PreemptNever {
			errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), *policy,
				[]corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
		return errs
	},
	ValidateUpdate: func(p, old *schedulingv1.PriorityClass) field.ErrorList {
		var errs field.ErrorList
		if p.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(errs, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Value", "integer", "The priority."),
		resource.Column("Global-Default", "boolean", "Whether pods without a class have it."),
		resource.AgeColumn,
		resource.Column("PreemptionPolicy", "string", "Whether its pods push others away."),
	},
	Row: func(p *schedulingv1.PriorityClass) []any {
		policy := ""
		if p.PreemptionPolicy != nil {
			policy = string(*p.PreemptionPolicy)
		}
		return []any{p.Name, int64(p.Value), p.GlobalDefault, resource.Age(p), policy}
	},
}

// validateSystem lets only those classes have a name of the system that are as the system makes them.
func validateSystem(p *schedulingv1.PriorityClass) field.ErrorList {
	fault := p.Name + " is not a known system priority class"
	for _, known := range SystemClasses() {
		switch {
		case known.Name != p.Name:
		case known.Value != p.Value:
			fault = fmt.Sprintf("value of %s PriorityClass must be %d", p.Name, known.Value)
		case p.GlobalDefault:
			fault = fmt.Sprintf("globalDefault of %s PriorityClass must be false", p.Name)
		default:
			return nil
		}
	}
	return field.ErrorList{field.Forbidden(field.NewPath("metadata", "name"),
		"priority class names with '"+SystemPrefix+"' prefix are reserved for system use only. error: "+fault)}
}
