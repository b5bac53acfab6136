package binder

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// annotations of a class that make it the default.
var defaultAnnotations = []string{"storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"}

func isDefault(c *storagev1.StorageClass) bool {
	return slices.ContainsFunc(defaultAnnotations, func(a string) bool { return c.Annotations[a] == "true" })
}

// defaultClass is the class for claims that name none: of several the newest, and of
// those made in the same second the first by name. Nil if there is none.
func (b *Controller) defaultClass() (*storagev1.StorageClass, error) {
	classes, err := b.classes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list storage classes: %w", err)
	}
	var best *storagev1.StorageClass
	for _, c := range classes {
		if !isDefault(c) {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) ||
			best.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < best.Name {
			best = c
		}
	}
	return best, nil
}

// candidates are the volumes that claim may get: those meant for it, and the free
// ones of its class.
func (b *Controller) candidates(claim *corev1.PersistentVolumeClaim) ([]*corev1.PersistentVolume, error) {
	meant, err := b.volumes.byIndex(indexClaimRef, claim.Namespace+"/"+claim.Name)
	if err != nil {
		return nil, err
	}
	free, err := b.volumes.byIndex(indexFree, volume.GetPersistentVolumeClaimClass(claim))
	if err != nil {
		return nil, err
	}
	return append(meant, free...), nil
}

// best picks a volume for claim, or nil: one that is meant for it before any other,
// then one with the fewest access modes too many, then the smallest.
func best(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, delayed bool) (*corev1.PersistentVolume, error) {
	volumes = slices.DeleteFunc(slices.Clone(volumes), func(v *corev1.PersistentVolume) bool {
		return !volume.CheckAccessModes(claim, v)
	})
	meant := func(v *corev1.PersistentVolume) int {
		if volume.IsVolumeBoundToClaim(v, claim) {
			return 0
		}
		return 1
	}
	compare := func(x, y *corev1.PersistentVolume) int {
		if d := meant(x) - meant(y); d != 0 {
			return d
		}
		return len(x.Spec.AccessModes) - len(y.Spec.AccessModes)
	}
	slices.SortStableFunc(volumes, compare)
	for len(volumes) > 0 {
		n := slices.IndexFunc(volumes, func(v *corev1.PersistentVolume) bool { return compare(volumes[0], v) != 0 })
		if n < 0 {
			n = len(volumes)
		}
		got, err := volume.FindMatchingVolume(claim, volumes[:n], nil, nil, delayed, true)
		if err != nil || got != nil {
			return got, err
		}
		volumes = volumes[n:]
	}
	return nil, nil
}

// mismatch says why the volume that claim names is not fit for it, or "".
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	want, have := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", v.Name)
	case have.Cmp(want) < 0:
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return "volumeAttributesClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	}
	return ""
}
