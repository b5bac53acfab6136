// Package storage describes the kinds of the group storage.k8s.io/v1: storage
// classes and what CSI drivers say of themselves.
package storage

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{storageClasses, csiDrivers, csiNodes, csiCapacities, volumeAttachments, attributesClasses}

// defaultClass marks the class of claims that name none.
const defaultClass = "storageclass.kubernetes.io/is-default-class"

var version = storagev1.SchemeGroupVersion

var storageClasses = &resource.Definition[*storagev1.StorageClass]{
	GroupVersion: version, Kind: "StorageClass", Plural: "storageclasses", Singular: "storageclass", ShortNames: []string{"sc"}, ClusterScoped: true,
	New:     func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
	NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
	Default: func(c *storagev1.StorageClass) {
		if c.ReclaimPolicy == nil {
			policy := corev1.PersistentVolumeReclaimDelete
			c.ReclaimPolicy = &policy
		}
		if c.VolumeBindingMode == nil {
			mode := storagev1.VolumeBindingImmediate
			c.VolumeBindingMode = &mode
		}
	},
	Validate: validateClass,
	ValidateUpdate: func(c, old *storagev1.StorageClass) field.ErrorList {
		return slices.Concat(
			apivalidation.ValidateImmutableField(c.Parameters, old.Parameters, field.NewPath("parameters")),
			apivalidation.ValidateImmutableField(c.Provisioner, old.Provisioner, field.NewPath("provisioner")),
			apivalidation.ValidateImmutableField(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy")),
			apivalidation.ValidateImmutableField(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode")),
		)
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Provisioner", "string", "Who makes its volumes."),
		resource.Column("ReclaimPolicy", "string", "What becomes of a volume whose claim is deleted."),
		resource.Column("VolumeBindingMode", "string", "When volumes are made."),
		resource.Column("AllowVolumeExpansion", "string", "Whether volumes can grow."),
		resource.AgeColumn,
	},
	Row: func(c *storagev1.StorageClass) []any {
		name := c.Name
		if c.Annotations[defaultClass] == "true" {
			name += " (default)"
		}
		expand := c.AllowVolumeExpansion != nil && *c.AllowVolumeExpansion
		return []any{name, c.Provisioner, string(*c.ReclaimPolicy), string(*c.VolumeBindingMode), expand, resource.Age(c)}
	},
}

// Bounds of the parameters of a class: how many, and how many bytes together.
const (
	maxParameters     = 512
	maxParametersSize = 256 * 1024
)

func validateClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateProvisioner(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, validateParameters(c.Parameters, false, field.NewPath("parameters"))...)
	if p := *c.ReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimDelete && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), p,
			[]corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}))
	}
	if m := *c.VolumeBindingMode; m != storagev1.VolumeBindingImmediate && m != storagev1.VolumeBindingWaitForFirstConsumer {
		errs = append(errs, field.NotSupported(field.NewPath("volumeBindingMode"), m,
			[]storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}))
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateProvisioner(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(strings.ToLower(name)) {
		errs = append(errs, field.Invalid(at, strings.ToLower(name), msg))
	}
	return errs
}

func validateParameters(parameters map[string]string, required bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(parameters) > maxParameters {
		errs = append(errs, field.TooLong(at, "", maxParameters))
	}
	if required && len(parameters) == 0 {
		errs = append(errs, field.Required(at, "must contain at least one key/value pair"))
	}
	size := 0
	for k, v := range parameters {
		if k == "" {
			errs = append(errs, field.Invalid(at, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(at, "", maxParametersSize))
	}
	return errs
}

// validateTopologies checks terms of which no two may be the same.
func validateTopologies(terms []corev1.TopologySelectorTerm, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{"": true} // a term that says nothing is one too many
	for i, term := range terms {
		expressions := at.Index(i).Child("matchLabelExpressions")
		keys, forms := map[string]bool{}, []string{}
		for j, e := range term.MatchLabelExpressions {
			p := expressions.Index(j)
			errs = append(errs, metav1validation.ValidateLabelName(e.Key, p.Child("key"))...)
			if keys[e.Key] {
				errs = append(errs, field.Duplicate(p.Child("key"), e.Key))
			}
			keys[e.Key] = true
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(p.Child("values"), ""))
			}
			values := map[string]bool{}
			for k, v := range e.Values {
				if values[v] {
					errs = append(errs, field.Duplicate(p.Child("values").Index(k), v))
				}
				values[v] = true
			}
			forms = append(forms, e.Key+"="+strings.Join(slices.Sorted(slices.Values(e.Values)), "|"))
		}
		slices.Sort(forms)
		form := strings.Join(forms, ",")
		if seen[form] {
			errs = append(errs, field.Duplicate(expressions, ""))
		}
		seen[form] = true
	}
	return errs
}

var attributesClasses = &resource.Definition[*storagev1.VolumeAttributesClass]{
	GroupVersion: version, Kind: "VolumeAttributesClass", Plural: "volumeattributesclasses", Singular: "volumeattributesclass",
	ShortNames: []string{"vac"}, ClusterScoped: true,
	New:     func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
	NewList: func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
	Validate: func(c *storagev1.VolumeAttributesClass) field.ErrorList {
		return append(validateProvisioner(c.DriverName, field.NewPath("driverName")), validateParameters(c.Parameters, true, field.NewPath("parameters"))...)
	},
	SkipValidateOnUpdate: true,
	ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
		errs := validateParameters(c.Parameters, true, field.NewPath("parameters"))
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !maps.Equal(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("DriverName", "string", "The driver it is for."), resource.AgeColumn},
	Row:     func(c *storagev1.VolumeAttributesClass) []any { return []any{c.Name, c.DriverName, resource.Age(c)} },
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
