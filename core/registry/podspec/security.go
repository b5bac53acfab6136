package podspec

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const sysctlPattern = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var (
	sysctlName    = regexp.MustCompile(sysctlPattern)
	seccompTypes  = sets.New(corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	appArmorTypes = sets.New(corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	// Which namespace of the kernel a sysctl belongs to.
	ipcSysctls = []string{"kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."}
)

func validateSecurity(s *corev1.SecurityContext, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := validateID(s.RunAsUser, at.Child("runAsUser"))
	errs = append(errs, validateID(s.RunAsGroup, at.Child("runAsGroup"))...)
	errs = append(errs, validateSeccomp(s.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(s.AppArmorProfile, at.Child("appArmorProfile"))...)
	errs = append(errs, validateWindowsOptions(s.WindowsOptions, at.Child("windowsOptions"))...)
	if m := s.ProcMount; m != nil && *m != corev1.DefaultProcMount && *m != corev1.UnmaskedProcMount {
		errs = append(errs, field.NotSupported(at.Child("procMount"), *m, []corev1.ProcMountType{corev1.DefaultProcMount, corev1.UnmaskedProcMount}))
	}
	if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && (spec.HostUsers == nil || *spec.HostUsers) {
		errs = append(errs, field.Invalid(at.Child("procMount"), *s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
	}
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil {
			for _, add := range s.Capabilities.Add {
				if add == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	return errs
}

func validateSeccomp(p *corev1.SeccompProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	}
	errs = append(errs, optional(p.Type, seccompTypes, at.Child("type"))...)
	if p.Type == corev1.SeccompProfileTypeLocalhost {
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return append(errs, field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
		}
		return append(errs, validateDescending(*p.LocalhostProfile, at.Child("localhostProfile"))...)
	}
	if p.LocalhostProfile != nil {
		errs = append(errs, field.Invalid(at.Child("localhostProfile"), p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func validateAppArmor(p *corev1.AppArmorProfile, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "type is required when appArmorProfile is set"))
	}
	errs = append(errs, optional(p.Type, appArmorTypes, at.Child("type"))...)
	at = at.Child("localhostProfile")
	if p.Type != corev1.AppArmorProfileTypeLocalhost {
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(at, *p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
		return errs
	}
	const maxProfile = 4095 // PATH_MAX without the final zero
	switch {
	case p.LocalhostProfile == nil, strings.TrimSpace(*p.LocalhostProfile) == "":
		return append(errs, field.Required(at, "must be set when AppArmor type is Localhost"))
	case strings.TrimSpace(*p.LocalhostProfile) != *p.LocalhostProfile:
		errs = append(errs, field.Invalid(at, *p.LocalhostProfile, "must not be padded with whitespace"))
	}
	if len(*p.LocalhostProfile) > maxProfile {
		errs = append(errs, field.TooLong(at, *p.LocalhostProfile, maxProfile))
	}
	return errs
}

func validatePodSecurity(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.HostPID && spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	s := spec.SecurityContext
	if s == nil {
		return errs
	}
	errs = append(errs, validateID(s.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, validateID(s.RunAsGroup, at.Child("runAsGroup"))...)
	errs = append(errs, validateID(s.FSGroup, at.Child("fsGroup"))...)
	for i := range s.SupplementalGroups {
		errs = append(errs, validateID(&s.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	errs = append(errs, validateSysctls(spec, at.Child("sysctls"))...)
	if policy := s.FSGroupChangePolicy; policy != nil && *policy != corev1.FSGroupChangeAlways && *policy != corev1.FSGroupChangeOnRootMismatch {
		errs = append(errs, field.NotSupported(at.Child("fsGroupChangePolicy"), *policy,
			[]corev1.PodFSGroupChangePolicy{corev1.FSGroupChangeOnRootMismatch, corev1.FSGroupChangeAlways}))
	}
	if policy := s.SupplementalGroupsPolicy; policy != nil && *policy != corev1.SupplementalGroupsPolicyMerge && *policy != corev1.SupplementalGroupsPolicyStrict {
		errs = append(errs, field.NotSupported(at.Child("supplementalGroupsPolicy"), *policy,
			[]corev1.SupplementalGroupsPolicy{corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict}))
	}
	if policy := s.SELinuxChangePolicy; policy != nil && *policy != corev1.SELinuxChangePolicyMountOption && *policy != corev1.SELinuxChangePolicyRecursive {
		errs = append(errs, field.NotSupported(at.Child("seLinuxChangePolicy"), *policy,
			[]corev1.PodSELinuxChangePolicy{corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive}))
	}
	errs = append(errs, validateSeccomp(s.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, validateAppArmor(s.AppArmorProfile, at.Child("appArmorProfile"))...)
	return append(errs, validateWindowsOptions(s.WindowsOptions, at.Child("windowsOptions"))...)
}

func validSysctl(name string) bool { return len(name) <= 253 && sysctlName.MatchString(name) }

// validateSysctls refuses those of a namespace that the pod shares with the host.
func validateSysctls(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, sysctl := range spec.SecurityContext.Sysctls {
		p := at.Index(i).Child("name")
		dotted := dottedSysctl(sysctl.Name)
		switch {
		case sysctl.Name == "":
			errs = append(errs, field.Required(p, ""))
		case !validSysctl(sysctl.Name):
			errs = append(errs, field.Invalid(p, sysctl.Name, fmt.Sprintf("must have at most %d characters and match regex %s", 253, sysctlPattern)))
		case names.Has(sysctl.Name):
			errs = append(errs, field.Duplicate(p, sysctl.Name))
		}
		names.Insert(sysctl.Name)
		if spec.HostNetwork && strings.HasPrefix(dotted, "net.") {
			errs = append(errs, field.Invalid(p, sysctl.Name, "may not be specified when 'hostNetwork' is true"))
		}
		for _, prefix := range ipcSysctls {
			if spec.HostIPC && strings.HasPrefix(dotted, prefix) {
				errs = append(errs, field.Invalid(p, sysctl.Name, "may not be specified when 'hostIPC' is true"))
			}
		}
	}
	return errs
}

// dottedSysctl brings a name written with slashes into the form with dots:
// whichever of the two comes first separates, and the other one is its opposite.
func dottedSysctl(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func validateID(id *int64, path *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalid(*id, path, validation.IsValidUserID(*id))
}
