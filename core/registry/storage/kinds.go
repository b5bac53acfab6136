// Package storage describes the kinds of the group storage.k8s.io/v1: storage
// classes and what CSI drivers say of themselves.
package storage

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{storageClasses, csiDrivers, csiNodes, volumeAttachments}

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
	Validate: func(c *storagev1.StorageClass) field.ErrorList {
		var errs field.ErrorList
		if c.Provisioner == "" {
			errs = append(errs, field.Required(field.NewPath("provisioner"), ""))
		}
		if p := *c.ReclaimPolicy; p != corev1.PersistentVolumeReclaimDelete && p != corev1.PersistentVolumeReclaimRetain {
			errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), p,
				[]corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}))
		}
		if m := *c.VolumeBindingMode; m != storagev1.VolumeBindingImmediate && m != storagev1.VolumeBindingWaitForFirstConsumer {
			errs = append(errs, field.NotSupported(field.NewPath("volumeBindingMode"), m,
				[]storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}))
		}
		return errs
	},
	ValidateUpdate: func(c, old *storagev1.StorageClass) field.ErrorList {
		var errs field.ErrorList
		fixed := func(now, was any, name string) {
			if !apiequality.Semantic.DeepEqual(now, was) {
				errs = append(errs, field.Forbidden(field.NewPath(name), "updates to "+name+" are forbidden."))
			}
		}
		fixed(c.Parameters, old.Parameters, "parameters")
		fixed(c.Provisioner, old.Provisioner, "provisioner")
		fixed(c.ReclaimPolicy, old.ReclaimPolicy, "reclaimPolicy")
		fixed(c.VolumeBindingMode, old.VolumeBindingMode, "volumeBindingMode")
		return errs
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

var csiDrivers = &resource.Definition[*storagev1.CSIDriver]{
	GroupVersion: version, Kind: "CSIDriver", Plural: "csidrivers", Singular: "csidriver", ClusterScoped: true,
	New:     func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
	NewList: func() runtime.Object { return &storagev1.CSIDriverList{} },
	Spec:    func(d *storagev1.CSIDriver) any { return &d.Spec },
	Default: func(d *storagev1.CSIDriver) {
		setDefault(&d.Spec.AttachRequired, true)
		setDefault(&d.Spec.PodInfoOnMount, false)
		setDefault(&d.Spec.StorageCapacity, false)
		setDefault(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		setDefault(&d.Spec.RequiresRepublish, false)
		setDefault(&d.Spec.SELinuxMount, false)
		if len(d.Spec.VolumeLifecycleModes) == 0 {
			d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
	},
}

var csiNodes = &resource.Definition[*storagev1.CSINode]{
	GroupVersion: version, Kind: "CSINode", Plural: "csinodes", Singular: "csinode", ClusterScoped: true,
	New:     func() *storagev1.CSINode { return &storagev1.CSINode{} },
	NewList: func() runtime.Object { return &storagev1.CSINodeList{} },
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Drivers", "integer", "How many drivers the node has."), resource.AgeColumn},
	Row:     func(n *storagev1.CSINode) []any { return []any{n.Name, int64(len(n.Spec.Drivers)), resource.Age(n)} },
}

var volumeAttachments = &resource.Definition[*storagev1.VolumeAttachment]{
	GroupVersion: version, Kind: "VolumeAttachment", Plural: "volumeattachments", Singular: "volumeattachment", ClusterScoped: true,
	New:     func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
	NewList: func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
	Status:  func(a *storagev1.VolumeAttachment) any { return &a.Status },
	Validate: func(a *storagev1.VolumeAttachment) field.ErrorList {
		var errs field.ErrorList
		if a.Spec.Attacher == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "attacher"), ""))
		}
		if a.Spec.NodeName == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "nodeName"), ""))
		}
		return errs
	},
	ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		if !apiequality.Semantic.DeepEqual(a.Spec, old.Spec) {
			return field.ErrorList{field.Invalid(field.NewPath("spec"), a.Spec, "field is immutable")}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Attacher", "string", "The driver."),
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

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
