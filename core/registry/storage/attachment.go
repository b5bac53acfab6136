package storage

import (
	"math"

	"context"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

var volumeAttachments = &resource.Definition[*storagev1.VolumeAttachment]{
	GroupVersion: version, Kind: "VolumeAttachment", Plural: "volumeattachments", Singular: "volumeattachment", ClusterScoped: true,
	New:      func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
	NewList:  func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	Status:   func(a *storagev1.VolumeAttachment) any { return &a.Status },
	Validate: validateAttachment,
	PrepareStatus: func(_ context.Context, a, old *storagev1.VolumeAttachment) {
		a.Spec = old.Spec
	},
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		if !apiequality.Semantic.DeepEqual(a.Spec, old.Spec) {
			return field.ErrorList{field.Invalid(field.NewPath("spec"), a.Spec, "field is immutable")}
		}
		return nil
	},
	ValidateStatus: func(a, _ *storagev1.VolumeAttachment) field.ErrorList { return validateAttachmentStatus(&a.Status) },
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		named(resource.Column("Attacher", "string", "The driver.")),
		resource.Column("PV", "string", "The volume."),
		resource.Column("Node", "string", "The node."),
		resource.Column("Attached", "boolean", "Whether it is attached."),
		resource.AgeColumn,
	},
	Row: func(a *storagev1.VolumeAttachment) []any {
		pv := ""
		if a.Spec.Source.PersistentVolumeName != nil {
			pv = *a.Spec.Source.PersistentVolumeName
		}
		return []any{a.Name, a.Spec.Attacher, pv, a.Spec.NodeName, a.Status.Attached, resource.Age(a)}
	},
}

func named(c metav1.TableColumnDefinition) metav1.TableColumnDefinition {
	c.Format = "name"
	return c
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	spec := field.NewPath("spec")
	errs := podspec.ValidateCSIDriver(a.Spec.Attacher, spec.Child("attacher"))
	for _, msg := range apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false) {
		errs = append(errs, field.Invalid(spec.Child("nodeName"), a.Spec.NodeName, msg))
	}
	source, inline, volume := spec.Child("source"), a.Spec.Source.InlineVolumeSpec, a.Spec.Source.PersistentVolumeName
	switch {
	case inline == nil && volume == nil:
		errs = append(errs, field.Required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case inline != nil && volume != nil:
		errs = append(errs, field.Forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case volume != nil:
		if *volume == "" {
			errs = append(errs, field.Required(source.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
		}
		for _, msg := range apivalidation.NameIsDNSSubdomain(*volume, false) {
			errs = append(errs, field.Invalid(source.Child("persistentVolumeName"), *volume, msg))
		}
	case inline != nil:
		at := source.Child("inlineVolumeSpec")
		if len(inline.AccessModes) == 0 {
			errs = append(errs, field.Required(at.Child("accessModes"), ""))
		}
		errs = append(errs, podspec.ValidateAccessModes(inline.AccessModes, at.Child("accessModes"))...)
		errs = append(errs, podspec.ValidatePersistentSource(&inline.PersistentVolumeSource, at)...)
		if inline.CSI == nil {
			errs = append(errs, field.Required(at.Child("csi"), "has to be specified in the context of inline volumes"))
		}
		for _, f := range []struct {
			name  string
			given bool
		}{
			{"capacity", inline.Capacity != nil}, {"claimRef", inline.ClaimRef != nil},
			{"persistentVolumeReclaimPolicy", inline.PersistentVolumeReclaimPolicy != ""}, {"storageClassName", inline.StorageClassName != ""},
			{"volumeMode", inline.VolumeMode != nil}, {"nodeAffinity", inline.NodeAffinity != nil},
			{"volumeAttributesClassName", inline.VolumeAttributesClassName != nil},
		} {
			if f.given {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be specified in the context of inline volumes"))
			}
		}
	}
	return append(errs, validateAttachmentStatus(&a.Status)...)
}

func validateAttachmentStatus(s *storagev1.VolumeAttachmentStatus) field.ErrorList {
	const maxMetadata, maxMessage = 256 * 1024, 256 * 1024
	status := field.NewPath("status")
	var errs field.ErrorList
	size := 0
	for k, v := range s.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxMetadata {
		errs = append(errs, field.TooLong(status.Child("attachmentMetadata"), "", maxMetadata))
	}
	for name, e := range map[string]*storagev1.VolumeError{"attachError": s.AttachError, "detachError": s.DetachError} {
		if e != nil && len(e.Message) > maxMessage {
			errs = append(errs, field.TooLong(status.Child(name, "message"), "", maxMessage))
		}
		if e != nil && e.ErrorCode != nil && *e.ErrorCode < 0 {
			errs = append(errs, field.Invalid(status.Child(name, "errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return errs
}
