package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var resizeStatuses = []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
	corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending}

// validateClaimStatus checks what is said of a claim's volume and of its growing.
func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	s, at := &c.Status, field.NewPath("status")
	var errs field.ErrorList
	for name, q := range s.Capacity {
		if n := q.Value(); n < 0 {
			errs = append(errs, field.Invalid(at.Child("capacity").Key(string(name)), n, "must be a valid resource quantity"))
		}
	}
	p := at.Child("allocatedResourceStatuses")
	for name, status := range s.AllocatedResourceStatuses {
		errs = append(errs, validateClaimResource(name, p)...)
		if !slices.Contains(resizeStatuses, status) {
			errs = append(errs, field.NotSupported(p, name, resizeStatuses))
		}
	}
	p = at.Child("allocatedResources")
	for name, q := range s.AllocatedResources {
		errs = append(errs, validateClaimResource(name, p)...)
		if n := q.Value(); n < 0 {
			errs = append(errs, field.Invalid(p.Key(string(name)), n, "must be a valid resource quantity"))
		}
	}
	return errs
}

// validateClaimResource checks what may grow of a claim: its storage, or what a driver calls by a name of its own.
func validateClaimResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(string(name)) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	if len(errs) > 0 {
		return errs
	}
	prefix, _, qualified := strings.Cut(string(name), "/")
	if name != corev1.ResourceStorage && (!qualified || strings.Contains(prefix, "kubernetes.io")) {
		errs = append(errs, field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	return errs
}
