// Package devices describes the kinds of resource.k8s.io/v1, by which pods get
// devices: classes of devices, claims and their templates, and the slices in
// which drivers tell what devices there are. It only keeps them; allocation is
// the scheduler's.
package devices

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{classes, claims, templates, slices, taintRules}

var version = resourcev1.SchemeGroupVersion

var classes = &resource.Definition[*resourcev1.DeviceClass]{
	GroupVersion: version, Kind: "DeviceClass", Plural: "deviceclasses", Singular: "deviceclass", ClusterScoped: true,
	New:      func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
	NewList:  func() runtime.Object { return &resourcev1.DeviceClassList{} },
	Spec:     func(c *resourcev1.DeviceClass) any { return &c.Spec },
	Validate: validateClass,
}

var claims = &resource.Definition[*resourcev1.ResourceClaim]{
	GroupVersion: version, Kind: "ResourceClaim", Plural: "resourceclaims", Singular: "resourceclaim",
	New:     func() *resourcev1.ResourceClaim { return &resourcev1.ResourceClaim{} },
	NewList: func() runtime.Object { return &resourcev1.ResourceClaimList{} },
	Gates: append(resource.Under("spec", claimGates),
		resource.Gate{Feature: "DRAOptionalNodeOperations", Fields: []string{"status.allocation.devices.results[].skipNodeOperations"}}),
	Default:       func(c *resourcev1.ResourceClaim) { defaultClaim(&c.Spec) },
	Status:        func(c *resourcev1.ResourceClaim) any { return &c.Status },
	PrepareStatus: func(_ context.Context, c, old *resourcev1.ResourceClaim) { c.Spec = old.Spec },
	Validate: func(c *resourcev1.ResourceClaim) field.ErrorList {
		return validateClaim(&c.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(c, old *resourcev1.ResourceClaim) field.ErrorList { return sameSpec(c.Spec, old.Spec) },
	ValidateStatus: validateClaimStatus,
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn, resource.Column("State", "string", "What has become of the claim."), resource.AgeColumn},
	Row: func(c *resourcev1.ResourceClaim) []any { return []any{c.Name, state(c), resource.Age(c)} },
	Setup: func(env *resource.Env, s *resource.Store) error {
		s.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
			c := obj.(*resourcev1.ResourceClaim)
			err := mayAdminister(ctx, env, version.WithKind("ResourceClaim").GroupKind().Kind, c.Name, &c.Spec, field.NewPath("spec"))
			return func(context.Context, bool) {}, err
		}
		return nil
	},
}

func state(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	if c.Status.Allocation == nil {
		if c.DeletionTimestamp == nil {
			states = append(states, "pending")
		}
	} else {
		states = append(states, "allocated")
		if len(c.Status.ReservedFor) > 0 {
			states = append(states, "reserved")
		}
	}
	return strings.Join(states, ",")
}

var templates = &resource.Definition[*resourcev1.ResourceClaimTemplate]{
	GroupVersion: version, Kind: "ResourceClaimTemplate", Plural: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
	New:     func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
	NewList: func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
	Gates:   resource.Under("spec.spec", claimGates),
	Default: func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
	Validate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
		at := field.NewPath("spec")
		errs := metav1validation.ValidateLabels(t.Spec.Labels, at.Child("metadata", "labels"))
		errs = append(errs, apivalidation.ValidateAnnotations(t.Spec.Annotations, at.Child("metadata", "annotations"))...)
		return append(errs, validateClaim(&t.Spec.Spec, at.Child("spec"))...)
	},
	ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList { return sameSpec(t.Spec, old.Spec) },
	Setup: func(env *resource.Env, s *resource.Store) error {
		s.BeginCreate = func(ctx context.Context, obj runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
			t := obj.(*resourcev1.ResourceClaimTemplate)
			err := mayAdminister(ctx, env, "ResourceClaimTemplate", t.Name, &t.Spec.Spec, field.NewPath("spec", "spec"))
			return func(context.Context, bool) {}, err
		}
		return nil
	},
}

// mayAdminister refuses access to devices in use where the namespace is not marked for it.
func mayAdminister(ctx context.Context, env *resource.Env, kind, name string, c *resourcev1.ResourceClaimSpec, at *field.Path) error {
	var errs field.ErrorList
	for i, r := range c.Devices.Requests {
		if r.Exactly == nil || r.Exactly.AdminAccess == nil || !*r.Exactly.AdminAccess {
			continue
		}
		obj, err := env.Store("", "namespaces").Get(genericapirequest.WithNamespace(ctx, ""), genericapirequest.NamespaceValue(ctx), &metav1.GetOptions{})
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("look up the namespace of a claim with admin access: %w", err))
		}
		if ns, ok := obj.(*corev1.Namespace); ok && ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
			return nil
		}
		errs = append(errs, field.Forbidden(at.Child("devices", "requests").Index(i).Child("adminAccess"),
			"admin access to devices requires the `"+resourcev1.DRAAdminNamespaceLabelKey+": true` label on the containing namespace"))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(version.WithKind(kind).GroupKind(), name, errs)
}

func sameSpec(now, was any) field.ErrorList {
	if !apiequality.Semantic.DeepEqual(now, was) {
		return field.ErrorList{field.Invalid(field.NewPath("spec"), now, "field is immutable")}
	}
	return nil
}

// defaultClaim says how many devices are meant where nothing is said.
func defaultClaim(c *resourcev1.ResourceClaimSpec) {
	fill := func(mode *resourcev1.DeviceAllocationMode, count *int64, tolerations []resourcev1.DeviceToleration) {
		if *mode == "" {
			*mode = resourcev1.DeviceAllocationModeExactCount
		}
		if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
			*count = 1
		}
		for i := range tolerations {
			if tolerations[i].Operator == "" {
				tolerations[i].Operator = resourcev1.DeviceTolerationOpEqual
			}
		}
	}
	for i := range c.Devices.Requests {
		r := &c.Devices.Requests[i]
		if e := r.Exactly; e != nil {
			fill(&e.AllocationMode, &e.Count, e.Tolerations)
		}
		for j := range r.FirstAvailable {
			s := &r.FirstAvailable[j]
			fill(&s.AllocationMode, &s.Count, s.Tolerations)
		}
	}
}

var slices = &resource.Definition[*resourcev1.ResourceSlice]{
	GroupVersion: version, Kind: "ResourceSlice", Plural: "resourceslices", Singular: "resourceslice", ClusterScoped: true,
	New:      func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
	NewList:  func() runtime.Object { return &resourcev1.ResourceSliceList{} },
	Gates:    sliceGates,
	Spec:     func(s *resourcev1.ResourceSlice) any { return &s.Spec },
	Validate: validateSlice,
	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				stamp(&s.Spec.Devices[i].Taints[j])
			}
		}
	},
	ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		spec := field.NewPath("spec")
		errs := apivalidation.ValidateImmutableField(s.Spec.Driver, old.Spec.Driver, spec.Child("driver"))
		errs = append(errs, apivalidation.ValidateImmutableField(s.Spec.Pool.Name, old.Spec.Pool.Name, spec.Child("pool", "name"))...)
		return append(errs, apivalidation.ValidateImmutableField(s.Spec.NodeName, old.Spec.NodeName, spec.Child("nodeName"))...)
	},
	Labels:     []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver},
	LabelFault: "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: %s",
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		return fields.Set{resourcev1.ResourceSliceSelectorNodeName: nodeName(s), resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver}
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Node", "string", "The node that has the devices."),
		resource.Column("Driver", "string", "The driver of the devices."),
		resource.Column("Pool", "string", "The pool of the slice."),
		resource.AgeColumn,
	},
	Row: func(s *resourcev1.ResourceSlice) []any {
		return []any{s.Name, nodeName(s), s.Spec.Driver, s.Spec.Pool.Name, resource.Age(s)}
	},
}

func nodeName(s *resourcev1.ResourceSlice) string {
	if s.Spec.NodeName == nil {
		return ""
	}
	return *s.Spec.NodeName
}

// stamp notes when a taint that evicts was added.
func stamp(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = new(metav1.Now().Rfc3339Copy())
	}
}

var taintRules = &resource.Definition[*resourcev1.DeviceTaintRule]{
	GroupVersion: version, Kind: "DeviceTaintRule", Plural: "devicetaintrules", Singular: "devicetaintrule", ClusterScoped: true,
	New:     func() *resourcev1.DeviceTaintRule { return &resourcev1.DeviceTaintRule{} },
	NewList: func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} },
	Spec:    func(r *resourcev1.DeviceTaintRule) any { return &r.Spec },
	Status:  func(r *resourcev1.DeviceTaintRule) any { return &r.Status },
	Default: func(r *resourcev1.DeviceTaintRule) { stamp(&r.Spec.Taint) },
	Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList {
		at := field.NewPath("spec")
		errs := validateTaint(&r.Spec.Taint, at.Child("taint"))
		if s := r.Spec.DeviceSelector; s != nil {
			at := at.Child("deviceSelector")
			if s.Driver != nil {
				errs = append(errs, validateDriver(*s.Driver, at.Child("driver"))...)
			}
			if s.Pool != nil {
				errs = append(errs, validatePool(*s.Pool, at.Child("pool"))...)
			}
			if s.Device != nil {
				errs = append(errs, validateLabel(*s.Device, at.Child("device"))...)
			}
		}
		return errs
	},
	ValidateStatus: func(r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
		at := field.NewPath("status", "conditions")
		errs := metav1validation.ValidateConditions(r.Status.Conditions, at)
		if n := len(r.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
			errs = append(errs, field.TooMany(at, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
		}
		return errs
	},
}
