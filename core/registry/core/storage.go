package core

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

var persistentVolumes = &resource.Definition[*corev1.PersistentVolume]{
	GroupVersion: version, Kind: "PersistentVolume", Plural: "persistentvolumes", Singular: "persistentvolume", ShortNames: []string{"pv"},
	ClusterScoped: true,
	New:           func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
	NewList:       func() runtime.Object { return &corev1.PersistentVolumeList{} },
	Default: func(pv *corev1.PersistentVolume) {
		if pv.Status.Phase == "" {
			pv.Status.Phase = corev1.VolumePending
		}
		if pv.Spec.PersistentVolumeReclaimPolicy == "" {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		}
		if pv.Spec.VolumeMode == nil {
			mode := corev1.PersistentVolumeFilesystem
			pv.Spec.VolumeMode = &mode
		}
		podspec.DefaultPersistentSource(&pv.Spec.PersistentVolumeSource)
	},
	Status: func(pv *corev1.PersistentVolume) any { return &pv.Status },
	PrepareCreate: func(_ context.Context, pv *corev1.PersistentVolume) {
		now := metav1.Now()
		pv.Status.Phase, pv.Status.LastPhaseTransitionTime = corev1.VolumePending, &now
	},
	PrepareStatus: func(_ context.Context, pv, old *corev1.PersistentVolume) {
		if pv.Status.Phase != old.Status.Phase && (pv.Status.LastPhaseTransitionTime == nil || pv.Status.LastPhaseTransitionTime.Equal(old.Status.LastPhaseTransitionTime)) {
			now := metav1.Now()
			pv.Status.LastPhaseTransitionTime = &now
		}
	},
	Validate: func(pv *corev1.PersistentVolume) field.ErrorList {
		return validateVolume(pv)
	},
	Warnings:       func(pv *corev1.PersistentVolume) []string { return volumeWarnings(pv) },
	ValidateUpdate: validateVolumeUpdate,
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Capacity", "string", "How much it holds."),
		resource.Column("Access Modes", "string", "How it can be mounted."),
		resource.Column("Reclaim Policy", "string", "What happens when its claim is deleted."),
		resource.Column("Status", "string", "Its phase."),
		resource.Column("Claim", "string", "The claim that it is bound to."),
		resource.Column("StorageClass", "string", "Its class."),
		resource.Column("VolumeAttributesClass", "string", "Its class of attributes."),
		resource.Column("Reason", "string", "Why it is not well."),
		resource.AgeColumn,
		resource.Wide("VolumeMode", "string", "Filesystem or block."),
	},
	Row: func(pv *corev1.PersistentVolume) []any {
		claim := ""
		if ref := pv.Spec.ClaimRef; ref != nil {
			claim = ref.Namespace + "/" + ref.Name
		}
		q := pv.Spec.Capacity[corev1.ResourceStorage]
		phase := string(pv.Status.Phase)
		if pv.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		return []any{pv.Name, q.String(), accessModes(pv.Spec.AccessModes), string(pv.Spec.PersistentVolumeReclaimPolicy), phase, claim,
			pv.Spec.StorageClassName, unset(pv.Spec.VolumeAttributesClassName), pv.Status.Reason, resource.Age(pv), unset(pv.Spec.VolumeMode)}
	},
}

var persistentVolumeClaims = &resource.Definition[*corev1.PersistentVolumeClaim]{
	GroupVersion: version, Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims", Singular: "persistentvolumeclaim", ShortNames: []string{"pvc"},
	New:     func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
	NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
	Gates:   claimGates,
	Default: func(c *corev1.PersistentVolumeClaim) {
		if c.Status.Phase == "" {
			c.Status.Phase = corev1.ClaimPending
		}
		if c.Spec.VolumeMode == nil {
			mode := corev1.PersistentVolumeFilesystem
			c.Spec.VolumeMode = &mode
		}
	},
	Status: func(c *corev1.PersistentVolumeClaim) any { return &c.Status },
	Validate: func(c *corev1.PersistentVolumeClaim) field.ErrorList {
		return podspec.ValidateClaimSpec(&c.Spec, field.NewPath("spec"))
	},
	Warnings: func(c *corev1.PersistentVolumeClaim) []string {
		list := classWarning(c.Annotations)
		list = append(list, podspec.QuantityWarnings(c.Spec.Resources.Requests, field.NewPath("spec", "resources", "requests"))...)
		return append(list, podspec.QuantityWarnings(c.Spec.Resources.Limits, field.NewPath("spec", "resources", "limits"))...)
	},
	PrepareCreate:  func(_ context.Context, c *corev1.PersistentVolumeClaim) { sameSource(&c.Spec) },
	PrepareUpdate:  func(_ context.Context, c, _ *corev1.PersistentVolumeClaim) { sameSource(&c.Spec) },
	ValidateUpdate: validateClaimUpdate,
	ValidateStatus: validateClaimStatus,
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Status", "string", "Its phase."),
		resource.Column("Volume", "string", "The volume that it is bound to."),
		resource.Column("Capacity", "string", "How much the volume holds."),
		resource.Column("Access Modes", "string", "How it can be mounted."),
		resource.Column("StorageClass", "string", "Its class."),
		resource.Column("VolumeAttributesClass", "string", "Its class of attributes."),
		resource.AgeColumn,
		resource.Wide("VolumeMode", "string", "Filesystem or block."),
	},
	Row: func(c *corev1.PersistentVolumeClaim) []any {
		phase, capacity, modes := string(c.Status.Phase), "", ""
		if c.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		if c.Spec.VolumeName != "" {
			q := c.Status.Capacity[corev1.ResourceStorage]
			capacity, modes = q.String(), accessModes(c.Status.AccessModes)
		}
		class := ""
		if c.Spec.StorageClassName != nil {
			class = *c.Spec.StorageClassName
		}
		return []any{c.Name, phase, c.Spec.VolumeName, capacity, modes, class, unset(c.Spec.VolumeAttributesClassName), resource.Age(c), unset(c.Spec.VolumeMode)}
	},
}

// validateClaimUpdate lets the wish for storage grow, and the volume be set once.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	now := c.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		now.VolumeName = ""
	}
	if old.Spec.StorageClassName == nil {
		now.StorageClassName = nil
	}
	bound := old.Status.Phase == corev1.ClaimBound
	if bound {
		now.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
		if now.Resources.Requests != nil { // without any it is another spec
			now.Resources.Requests = old.Spec.Resources.Requests
		}
	}
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(c.Spec.VolumeMode, old.Spec.VolumeMode) {
		errs = append(errs, field.Invalid(field.NewPath("volumeMode"), c.Spec.VolumeMode, "field is immutable"))
	}
	if !apiequality.Semantic.DeepEqual(now, &old.Spec) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	wanted, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if wanted.Cmp(was) < 0 && wanted.Cmp(c.Status.Capacity[corev1.ResourceStorage]) <= 0 {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	return errs
}

// validateVolumeUpdate keeps what a volume is, and where it can be used.
func validateVolumeUpdate(pv, old *corev1.PersistentVolume) field.ErrorList {
	errs := validateVolume(pv) // upstream says what it finds there twice
	spec := field.NewPath("spec")
	was := old.Spec.PersistentVolumeSource
	if csi, now := was.CSI, pv.Spec.CSI; csi != nil && now != nil { // who may let it grow can be said later
		csi = csi.DeepCopy()
		if csi.ControllerExpandSecretRef == nil {
			csi.ControllerExpandSecretRef = now.ControllerExpandSecretRef
		}
		if csi.NodeExpandSecretRef == nil {
			csi.NodeExpandSecretRef = now.NodeExpandSecretRef
		}
		was.CSI = csi
	}
	if !apiequality.Semantic.DeepEqual(pv.Spec.PersistentVolumeSource, was) {
		errs = append(errs, field.Forbidden(spec.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	if !apiequality.Semantic.DeepEqual(pv.Spec.VolumeMode, old.Spec.VolumeMode) {
		errs = append(errs, field.Invalid(field.NewPath("volumeMode"), pv.Spec.VolumeMode, "field is immutable"))
	}
	if a := old.Spec.NodeAffinity; a != nil && !apiequality.Semantic.DeepEqual(pv.Spec.NodeAffinity, podspec.StableLabels(a, pv.Spec.NodeAffinity)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), pv.Spec.NodeAffinity, "field is immutable, except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && pv.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(spec.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

var shortModes = map[corev1.PersistentVolumeAccessMode]string{
	corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP"}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var list []string
	for _, m := range modes {
		list = append(list, shortModes[m])
	}
	return strings.Join(list, ",")
}

func unset[T ~string](p *T) string {
	if p == nil || *p == "" {
		return "<unset>"
	}
	return string(*p)
}
