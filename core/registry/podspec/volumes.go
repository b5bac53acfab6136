package podspec

import (
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a projected token's life.
const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// validateVolumes gives the names of the volumes with the errors.
func validateVolumes(volumes []corev1.Volume, at *field.Path) (map[string]*corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	names := map[string]*corev1.VolumeSource{}
	for i := range volumes {
		v, p := &volumes[i], at.Index(i)
		switch {
		case v.Name == "":
			errs = append(errs, field.Required(p.Child("name"), ""))
		case names[v.Name] != nil:
			errs = append(errs, field.Duplicate(p.Child("name"), v.Name))
		default:
			errs = append(errs, invalid(v.Name, p.Child("name"), validation.IsDNS1123Label(v.Name))...)
		}
		if v.Name != "" {
			names[v.Name] = &v.VolumeSource
		}
		errs = append(errs, validateVolume(&v.VolumeSource, p)...)
	}
	return names, errs
}

func validateVolume(v *corev1.VolumeSource, at *field.Path) field.ErrorList {
	switch given := setFields(v); len(given) {
	case 0:
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	case 1:
	default: // as upstream, each but the first is one too many
		var errs field.ErrorList
		for _, child := range given[1:] {
			errs = append(errs, field.Forbidden(at.Child(child), "may not specify more than 1 volume type"))
		}
		return errs
	}
	switch {
	case v.EmptyDir != nil:
		if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			return field.ErrorList{field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity")}
		}
	case v.HostPath != nil:
		return validateHostPath(v.HostPath, at.Child("hostPath"))
	case v.Secret != nil:
		p := at.Child("secret")
		errs := requiredName(v.Secret.SecretName, p.Child("secretName"))
		errs = append(errs, validateMode(v.Secret.DefaultMode, p.Child("defaultMode"))...)
		return append(errs, validateItems(v.Secret.Items, p.Child("items"))...)
	case v.ConfigMap != nil:
		p := at.Child("configMap")
		errs := requiredName(v.ConfigMap.Name, p.Child("name"))
		errs = append(errs, validateMode(v.ConfigMap.DefaultMode, p.Child("defaultMode"))...)
		return append(errs, validateItems(v.ConfigMap.Items, p.Child("items"))...)
	case v.DownwardAPI != nil:
		p := at.Child("downwardAPI")
		errs := validateMode(v.DownwardAPI.DefaultMode, p.Child("defaultMode"))
		return append(errs, validateDownward(v.DownwardAPI.Items, p)...)
	case v.Projected != nil:
		return validateProjected(v.Projected, at.Child("projected"))
	case v.PersistentVolumeClaim != nil:
		return requiredName(v.PersistentVolumeClaim.ClaimName, at.Child("persistentVolumeClaim", "claimName"))
	case v.Ephemeral != nil:
		return validateEphemeralVolume(v.Ephemeral, at.Child("ephemeral"))
	case v.Image != nil:
		errs := requiredName(v.Image.Reference, at.Child("image", "reference"))
		return append(errs, optional(v.Image.PullPolicy, pullPolicies, at.Child("image", "pullPolicy"))...)
	}
	return validateRemote(v, at)
}

// validateEphemeralVolume checks the template of a claim that comes and goes with the pod.
func validateEphemeralVolume(e *corev1.EphemeralVolumeSource, at *field.Path) field.ErrorList {
	at = at.Child("volumeClaimTemplate")
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	m, p := &e.VolumeClaimTemplate.ObjectMeta, at.Child("metadata")
	errs := apivalidation.ValidateAnnotations(m.Annotations, p.Child("annotations"))
	errs = append(errs, metav1validation.ValidateLabels(m.Labels, p.Child("labels"))...)
	others := *m.DeepCopy()
	others.Labels, others.Annotations = nil, nil
	for child, given := range map[string]bool{"name": others.Name != "", "generateName": others.GenerateName != "",
		"namespace": others.Namespace != "", "finalizers": len(others.Finalizers) > 0, "ownerReferences": len(others.OwnerReferences) > 0} {
		if given {
			errs = append(errs, field.Forbidden(p.Child(child), "cannot be set"))
		}
	}
	return append(errs, ValidateClaimSpec(&e.VolumeClaimTemplate.Spec, at.Child("spec"))...)
}

// setFields names the fields of a struct of pointers that are not nil.
func setFields(v any) []string {
	var names []string
	for s, i := reflect.ValueOf(v).Elem(), 0; i < s.NumField(); i++ {
		if !s.Field(i).IsNil() {
			name, _, _ := strings.Cut(s.Type().Field(i).Tag.Get("json"), ",")
			if name == "emptyDir" { // which upstream looks at first
				names = append([]string{name}, names...)
				continue
			}
			names = append(names, name)
		}
	}
	return names
}

var hostPathTypes = sets.New(corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory, corev1.HostPathFileOrCreate,
	corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)

func validateHostPath(h *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := validateNoBacksteps(h.Path, at.Child("path"))
	if h.Type != nil {
		errs = append(errs, optional(*h.Type, hostPathTypes, at.Child("type"))...)
	}
	return errs
}

func validateMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateItems(items []corev1.KeyToPath, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		p := at.Index(i)
		errs = append(errs, requiredName(item.Key, p.Child("key"))...)
		errs = append(errs, validateItemPath(item.Path, p.Child("path"))...)
		errs = append(errs, validateMode(item.Mode, p.Child("mode"))...)
	}
	return errs
}

func validateItemPath(path string, at *field.Path) field.ErrorList {
	if path == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateDescending(path, at)
	if len(path) > 1 && path[:2] == ".." && len(errs) == 0 {
		errs = append(errs, field.Invalid(at, path, "must not start with '..'"))
	}
	return errs
}

var downwardFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations")

// validateDownward reports its errors without the item's number, as upstream does.
func validateDownward(items []corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, item := range items {
		errs = append(errs, validateItemPath(item.Path, p.Child("path"))...)
		switch {
		case item.FieldRef != nil && item.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
			errs = append(errs, validateFieldRef(item.FieldRef, downwardFields, p.Child("fieldRef"))...)
		case item.FieldRef != nil:
			errs = append(errs, validateFieldRef(item.FieldRef, downwardFields, p.Child("fieldRef"))...)
		case item.ResourceFieldRef != nil:
			errs = append(errs, validateResourceRef(item.ResourceFieldRef, p.Child("resourceFieldRef"), true)...)
		default:
			errs = append(errs, field.Required(p, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateMode(item.Mode, p.Child("mode"))...)
	}
	return errs
}

func validateProjected(v *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	errs := validateMode(v.DefaultMode, at.Child("defaultMode"))
	paths := sets.New[string]()
	take := func(path string, value any) {
		if path == "" {
			return
		}
		if paths.Has(path) {
			errs = append(errs, field.Invalid(at, value, "conflicting duplicate paths"))
		}
		paths.Insert(path)
	}
	for i := range v.Sources {
		s, p := &v.Sources[i], at.Child("sources").Index(i)
		if len(setFields(s)) > 1 {
			errs = append(errs, field.Forbidden(p, "may not specify more than 1 volume type per source"))
		}
		if s.Secret != nil {
			errs = append(errs, requiredName(s.Secret.Name, p.Child("secret", "name"))...)
			errs = append(errs, validateItems(s.Secret.Items, p.Child("secret", "items"))...)
			for _, item := range s.Secret.Items {
				take(item.Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			errs = append(errs, requiredName(s.ConfigMap.Name, p.Child("configMap", "name"))...)
			errs = append(errs, validateItems(s.ConfigMap.Items, p.Child("configMap", "items"))...)
			for _, item := range s.ConfigMap.Items {
				take(item.Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			errs = append(errs, validateDownward(s.DownwardAPI.Items, p.Child("downwardAPI"))...)
			for _, item := range s.DownwardAPI.Items {
				take(item.Path, item.Path)
			}
		}
		if s.ServiceAccountToken != nil {
			errs = append(errs, validateProjectedToken(s.ServiceAccountToken, p.Child("serviceAccountToken"), at)...)
		}
		if b := s.ClusterTrustBundle; b != nil {
			errs = append(errs, validateBundleProjection(b, p.Child("clusterTrustBundle"))...)
			take(b.Path, b.Path)
		}
		if c := s.PodCertificate; c != nil {
			errs = append(errs, validateCertificateProjection(c, p.Child("podCertificate"))...)
			for _, path := range []string{c.CredentialBundlePath, c.KeyPath, c.CertificateChainPath} {
				take(path, path)
			}
		}
	}
	return errs
}

func validateProjectedToken(t *corev1.ServiceAccountTokenProjection, at, volume *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.ExpirationSeconds != nil && *t.ExpirationSeconds < minTokenSeconds {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if t.ExpirationSeconds != nil && *t.ExpirationSeconds > maxTokenSeconds {
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return append(errs, validateItemPath(t.Path, volume.Child("path"))...)
}

func requiredName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}
