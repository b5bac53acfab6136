package podspec

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	appArmorAnnotation    = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	tolerationsAnnotation = "scheduler.alpha.kubernetes.io/tolerations"
	deletionCost          = corev1.PodDeletionCost
	mirror                = corev1.MirrorPodAnnotationKey
	appArmorWarning       = `deprecated since v1.30; use the "appArmorProfile" field instead`
	podSeccomp            = "seccomp.security.alpha.kubernetes.io/pod"
)

// FollowAnnotations sets the AppArmor profiles of containers whose annotation
// of old says which, when a pod is made. It warns of those annotations.
func FollowAnnotations(p *corev1.Pod) (warnings []string) {
	follow := func(list []corev1.Container) {
		for i := range list {
			key := appArmorAnnotation + list[i].Name
			value, given := p.Annotations[key]
			if !given || list[i].SecurityContext != nil && list[i].SecurityContext.AppArmorProfile != nil {
				continue
			}
			warnings = append(warnings, fmt.Sprintf("%s: %s", field.NewPath("metadata", "annotations").Key(key), appArmorWarning))
			profile := appArmorProfile(value)
			if profile == nil {
				continue
			}
			if list[i].SecurityContext == nil {
				list[i].SecurityContext = &corev1.SecurityContext{}
			}
			list[i].SecurityContext.AppArmorProfile = profile
		}
	}
	follow(p.Spec.InitContainers)
	follow(p.Spec.Containers)
	return warnings
}

func appArmorProfile(value string) *corev1.AppArmorProfile {
	local, isLocal := strings.CutPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix)
	switch {
	case value == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case value == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case isLocal && local != "":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &local}
	}
	return nil
}

// ValidateAnnotations checks the annotations of a pod that mean something.
func ValidateAnnotations(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v, ok := p.Annotations[mirror]; ok && p.Spec.NodeName == "" {
		errs = append(errs, field.Invalid(at.Key(mirror), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v, ok := p.Annotations[deletionCost]; ok {
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || strconv.FormatInt(n, 10) != v {
			errs = append(errs, field.Invalid(at.Key(deletionCost), v, "must be a 32bit integer"))
		}
	}
	if v, ok := p.Annotations[tolerationsAnnotation]; ok && v != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			errs = append(errs, field.Invalid(at, tolerationsAnnotation, err.Error()))
		}
	}
	if v, ok := p.Annotations[podSeccomp]; ok {
		errs = append(errs, validateSeccompAnnotation(p, v, at)...)
	}
	return append(errs, validateAppArmorAnnotations(p, at)...)
}

func validateSeccompAnnotation(p *corev1.Pod, v string, at *field.Path) field.ErrorList {
	local, isLocal := strings.CutPrefix(v, "localhost/")
	var wanted corev1.SeccompProfileType
	switch {
	case v == "runtime/default" || v == "docker/default":
		wanted = corev1.SeccompProfileTypeRuntimeDefault
	case v == "unconfined":
		wanted = corev1.SeccompProfileTypeUnconfined
	case isLocal:
		wanted = corev1.SeccompProfileTypeLocalhost
		if errs := validateDescending(local, at.Child(podSeccomp)); len(errs) > 0 {
			return errs
		}
	default:
		return field.ErrorList{field.Invalid(at.Child(podSeccomp), v, "must be a valid seccomp profile")}
	}
	if s := p.Spec.SecurityContext; s != nil && s.SeccompProfile != nil && s.SeccompProfile.Type != wanted {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "securityContext", "seccompProfile", "type"), "seccomp type in annotation and field must match")}
	}
	return nil
}

func validateAppArmorAnnotations(p *corev1.Pod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for key, v := range p.Annotations {
		name, is := strings.CutPrefix(key, appArmorAnnotation)
		if !is {
			continue
		}
		found := false
		eachContainer(&p.Spec, field.NewPath("spec"), func(c *corev1.Container, path *field.Path) {
			if c.Name != name {
				return
			}
			found = true
			wanted := appArmorProfile(v)
			if s := c.SecurityContext; wanted != nil && s != nil && s.AppArmorProfile != nil && s.AppArmorProfile.Type != wanted.Type {
				errs = append(errs, field.Forbidden(path.Child("securityContext", "appArmorProfile", "type"), "apparmor type in annotation and field must match"))
			}
		})
		if !found {
			errs = append(errs, field.Invalid(at.Key(key), name, "container not found"))
		}
		if v != "" && appArmorProfile(v) == nil {
			errs = append(errs, field.Invalid(at.Key(key), v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
		}
	}
	return errs
}
