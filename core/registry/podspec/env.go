package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
	// fieldPaths are those that a field reference may have at all; env and volumes take some of them each.
	fieldPaths = envFields.Union(sets.New("metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName",
		"spec.hostNetwork", "status.phase", "status.nominatedNodeName", "spec.host"))
	resourceFields = sets.New("limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory")

	cpuDivisors    = []string{"1m", "1"}
	memoryDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func validateEnv(c *corev1.Container, volumes map[string]*corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, env := range c.Env {
		p := at.Child("env").Index(i)
		if env.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		} else {
			errs = append(errs, invalid(env.Name, p.Child("name"), validation.IsRelaxedEnvVarName(env.Name))...)
		}
		if env.ValueFrom != nil {
			errs = append(errs, validateEnvSource(&env, volumes, p.Child("valueFrom"))...)
		}
	}
	p := at.Child("envFrom")
	for i, from := range c.EnvFrom {
		if from.Prefix != "" {
			errs = append(errs, invalid(from.Prefix, p.Index(i).Child("prefix"), validation.IsRelaxedEnvVarName(from.Prefix))...)
		}
		if from.ConfigMapRef != nil {
			errs = append(errs, requiredSubdomain(from.ConfigMapRef.Name, p.Index(i).Child("configMapRef", "name"))...)
		}
		if from.SecretRef != nil {
			errs = append(errs, requiredSubdomain(from.SecretRef.Name, p.Index(i).Child("secretRef", "name"))...)
		}
		switch {
		case from.ConfigMapRef != nil && from.SecretRef != nil:
			errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
		case from.ConfigMapRef == nil && from.SecretRef == nil:
			errs = append(errs, field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

// requiredSubdomain checks a name that has to be there.
func requiredSubdomain(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return invalid(name, at, validation.IsDNS1123Subdomain(name))
}

func validateEnvSource(env *corev1.EnvVar, volumes map[string]*corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	from, sources := env.ValueFrom, 0
	if r := from.FieldRef; r != nil {
		sources++
		errs = append(errs, validateFieldRef(r, envFields, at.Child("fieldRef"))...)
	}
	if r := from.ResourceFieldRef; r != nil {
		sources++
		errs = append(errs, validateResourceRef(r, at.Child("resourceFieldRef"), false)...)
	}
	key := func(name, key string, p *field.Path) {
		sources++
		errs = append(errs, invalid(name, p.Child("name"), validation.IsDNS1123Subdomain(name))...)
		if key == "" {
			errs = append(errs, field.Required(p.Child("key"), ""))
		} else {
			errs = append(errs, invalid(key, p.Child("key"), validation.IsConfigMapKey(key))...)
		}
	}
	if r := from.ConfigMapKeyRef; r != nil {
		key(r.Name, r.Key, at.Child("configMapKeyRef"))
	}
	if r := from.SecretKeyRef; r != nil {
		key(r.Name, r.Key, at.Child("secretKeyRef"))
	}
	if r := from.FileKeyRef; r != nil {
		sources++
		errs = append(errs, validateFileKey(r, volumes, at.Child("fileKeyRef"))...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case env.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

// validateFileKey checks a variable that comes from a file in an emptyDir.
func validateFileKey(r *corev1.FileKeySelector, volumes map[string]*corev1.VolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Key == "" {
		errs = append(errs, field.Required(at.Child("key"), ""))
	} else {
		errs = append(errs, invalid(r.Key, at.Child("key"), validation.IsRelaxedEnvVarName(r.Key))...)
	}
	if r.VolumeName == "" {
		errs = append(errs, field.Required(at.Child("volumeName"), ""))
	}
	if r.Path == "" {
		errs = append(errs, field.Required(at.Child("path"), ""))
	} else {
		errs = append(errs, validateDescending(r.Path, at.Child("path"))...)
	}
	v, known := volumes[r.VolumeName]
	switch {
	case !known:
		errs = append(errs, field.NotFound(at.Child("volumeName"), r.VolumeName))
	case v.EmptyDir == nil:
		errs = append(errs, field.Invalid(at.Child("volumeName"), r.VolumeName, "referenced volume must be of type emptyDir"))
	}
	return errs
}

func validateFieldRef(r *corev1.ObjectFieldSelector, known sets.Set[string], at *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	at, wrong := at, func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(at.Child("fieldPath"), r.FieldPath, "error converting fieldPath: "+fmt.Sprintf(format, args...))}
	}
	if r.APIVersion != "v1" {
		return wrong("unsupported pod version: %s", r.APIVersion)
	}
	if base, key, ok := subscript(r.FieldPath); ok {
		switch base {
		case "metadata.annotations":
			return invalid(key, at, validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			return invalid(key, at, validation.IsQualifiedName(key))
		}
		return wrong("field label does not support subscript: %s", r.FieldPath)
	}
	switch {
	case !fieldPaths.Has(r.FieldPath):
		return wrong("field label not supported: %s", r.FieldPath)
	case r.FieldPath == "spec.host": // the old name of spec.nodeName
	case !known.Has(r.FieldPath):
		return field.ErrorList{field.NotSupported(at.Child("fieldPath"), r.FieldPath, sets.List(known))}
	}
	return nil
}

// subscript splits metadata.labels['key'].
func subscript(p string) (base, key string, ok bool) {
	base, rest, found := strings.Cut(p, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return p, "", false
	}
	return base, strings.TrimSuffix(rest, "']"), true
}

func validateResourceRef(r *corev1.ResourceFieldSelector, at *field.Path, volume bool) field.ErrorList {
	if volume && r.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if r.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	huge := strings.HasPrefix(r.Resource, "limits.hugepages-") || strings.HasPrefix(r.Resource, "requests.hugepages-")
	if !resourceFields.Has(r.Resource) && !huge {
		return field.ErrorList{field.NotSupported(at.Child("resource"), r.Resource, sets.List(resourceFields))}
	}
	return validateDivisor(r, at)
}

func validateDivisor(r *corev1.ResourceFieldSelector, at *field.Path) field.ErrorList {
	if r.Divisor.Cmp(resource.Quantity{}) == 0 {
		return nil
	}
	known, what := memoryDivisors, ""
	switch _, name, _ := strings.Cut(r.Resource, "."); name {
	case "cpu":
		known, what = cpuDivisors, "cpu resource"
	case "memory":
		what = "memory resource"
	case "ephemeral-storage":
		what = "local ephemeral storage resource"
	default:
		what = "hugepages resource"
	}
	if slices.Contains(known, r.Divisor.String()) {
		return nil
	}
	separator := ", "
	list := strings.Join(known, separator)
	if len(known) == len(cpuDivisors) {
		list = strings.Join(known, " and ")
	}
	return field.ErrorList{field.Invalid(at.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s", list, what))}
}
