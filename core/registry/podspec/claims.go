package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	accessModes = sets.New(corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
	volumeModes = sets.New(corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
)

// ValidateAccessModes checks the access modes of a volume or claim; the
// single-pod mode excludes all others.
func ValidateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	single, other := false, false
	for _, m := range modes {
		if !accessModes.Has(m) {
			errs = append(errs, field.NotSupported(at, m, sets.List(accessModes)))
		}
		single = single || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod
	}
	if single && other {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// ValidateClaimSpec checks the spec of a PersistentVolumeClaim or of a template of one.
func ValidateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	errs = append(errs, metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	errs = append(errs, ValidateAccessModes(s.AccessModes, at.Child("accessModes"))...)
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(at.Child("resources").Key("storage"), ""))
	} else {
		errs = append(errs, validateStorageQuantity(q, at.Child("resources").Key("storage"))...)
	}
	if c := s.StorageClassName; c != nil && *c != "" {
		errs = append(errs, invalid(*c, at.Child("storageClassName"), validation.IsDNS1123Subdomain(*c))...)
	}
	if m := s.VolumeMode; m != nil && !volumeModes.Has(*m) {
		errs = append(errs, field.NotSupported(at.Child("volumeMode"), *m, sets.List(volumeModes)))
	}
	if c := s.VolumeAttributesClassName; c != nil && *c != "" {
		errs = append(errs, invalid(*c, at.Child("volumeAttributesClassName"), validation.IsDNS1123Subdomain(*c))...)
	}
	return append(errs, validateDataSource(s, at)...)
}

func validateStorageQuantity(q resource.Quantity, at *field.Path) field.ErrorList {
	if q.Sign() <= 0 {
		return field.ErrorList{field.Invalid(at, q.String(), "must be greater than zero")}
	}
	return nil
}

// validateDataSource checks what the claim's volume is to be filled from. Both
// fields mean the same, unless the source is in another namespace.
func validateDataSource(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(kind, name string, group *string, p *field.Path) {
		if name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		}
		if kind == "" {
			errs = append(errs, field.Required(p.Child("kind"), ""))
		}
		g := ""
		if group != nil {
			g = *group
		}
		if g == "" && kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
		if g != "" {
			errs = append(errs, invalid(g, p.Child("apiGroup"), validation.IsDNS1123Subdomain(g))...)
		}
	}
	if d := s.DataSource; d != nil {
		check(d.Kind, d.Name, d.APIGroup, at.Child("dataSource"))
	}
	if d := s.DataSourceRef; d != nil {
		check(d.Kind, d.Name, d.APIGroup, at.Child("dataSourceRef"))
		if s.DataSource != nil && (d.Namespace == nil || *d.Namespace == "") && (d.Kind != s.DataSource.Kind || d.Name != s.DataSource.Name) {
			errs = append(errs, field.Invalid(at, *s.DataSource, "must match dataSourceRef"))
		}
	}
	return errs
}

// ValidateVolumeSource checks a volume's source.
func ValidateVolumeSource(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	return validateVolume(v, at)
}
