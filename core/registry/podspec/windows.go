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

const (
	maxCredentialSpec = 64 << 10
	maxDomain         = 256
	maxUser           = 104
)

var (
	controlChars = regexp.MustCompile(`[[:cntrl:]]+`)
	dnsDomain    = regexp.MustCompile(`^[a-zA-Z0-9\-]+(\.[a-zA-Z0-9\-]+){0,}$`)
	netBIOSName  = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	userForm     = regexp.MustCompile(`^[^/\\:;|=,\+\*\?<>@\[\]"]+$`)
	onlyDots     = regexp.MustCompile(`^[. ]+$`)
)

func validateWindowsOptions(w *corev1.WindowsSecurityContextOptions, at *field.Path) field.ErrorList {
	if w == nil {
		return nil
	}
	var errs field.ErrorList
	if n := w.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalid(*n, at.Child("gmsaCredentialSpecName"), validation.IsDNS1123Subdomain(*n))...)
	}
	if s := w.GMSACredentialSpec; s != nil {
		p := at.Child("gmsaCredentialSpec")
		switch {
		case *s == "":
			errs = append(errs, field.Invalid(p, *s, "gmsaCredentialSpec cannot be an empty string"))
		case len(*s) > maxCredentialSpec:
			errs = append(errs, field.Invalid(p, *s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxCredentialSpec>>10)))
		}
	}
	if w.RunAsUserName != nil {
		errs = append(errs, validateWindowsUser(*w.RunAsUserName, at.Child("runAsUserName"))...)
	}
	return errs
}

func validateWindowsUser(name string, p *field.Path) field.ErrorList {
	wrong := func(message string) field.ErrorList { return field.ErrorList{field.Invalid(p, name, message)} }
	switch {
	case name == "":
		return wrong("runAsUserName cannot be an empty string")
	case controlChars.MatchString(name):
		return wrong("runAsUserName cannot contain control characters")
	case strings.Count(name, `\`) > 1:
		return wrong("runAsUserName cannot contain more than one backslash")
	}
	var errs field.ErrorList
	domain, user, qualified := strings.Cut(name, `\`)
	if !qualified {
		user = name
	} else {
		if len(domain) == 0 || len(domain) > maxDomain {
			errs = append(errs, field.Invalid(p, name, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxDomain)))
		}
		if !dnsDomain.MatchString(domain) && !netBIOSName.MatchString(domain) {
			errs = append(errs, field.Invalid(p, name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format"))
		}
	}
	switch {
	case user == "":
		errs = append(errs, field.Invalid(p, name, "runAsUserName's User cannot be empty"))
	case len(user) > maxUser:
		errs = append(errs, field.Invalid(p, name, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxUser)))
	case onlyDots.MatchString(user):
		errs = append(errs, field.Invalid(p, name, "runAsUserName's User cannot contain only periods or spaces"))
	case !userForm.MatchString(user):
		errs = append(errs, field.Invalid(p, name, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`))
	}
	return errs
}

// validateHostProcess checks that a pod's containers are all host processes of
// Windows or none, and then on the host's network.
func validateHostProcess(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	pod := hostProcess(podWindows(spec))
	any, all := false, true
	check := func(containers []corev1.Container, child string) {
		for i := range containers {
			var options *corev1.WindowsSecurityContextOptions
			if s := containers[i].SecurityContext; s != nil {
				options = s.WindowsOptions
			}
			own := hostProcess(options)
			if own != nil && pod != nil && *own != *pod {
				errs = append(errs, field.Invalid(at.Child(child).Index(i).Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *pod)))
			}
			is := own != nil && *own || own == nil && pod != nil && *pod
			any, all = any || is, all && is
		}
	}
	check(spec.Containers, "containers")
	check(spec.InitContainers, "initContainers")
	if !any {
		return errs
	}
	if !all && pod == nil {
		errs = append(errs, field.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !spec.HostNetwork {
		errs = append(errs, field.Invalid(at.Child("hostNetwork"), spec.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

func podWindows(spec *corev1.PodSpec) *corev1.WindowsSecurityContextOptions {
	if spec.SecurityContext == nil {
		return nil
	}
	return spec.SecurityContext.WindowsOptions
}

func hostProcess(w *corev1.WindowsSecurityContextOptions) *bool {
	if w == nil {
		return nil
	}
	return w.HostProcess
}

// validateOS checks that a pod has no options of another operating system.
func validateOS(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	if spec.OS == nil {
		return nil
	}
	switch spec.OS.Name {
	case "":
		return field.ErrorList{field.Required(at.Child("os", "name"), "")}
	case corev1.Linux:
		return forbidWindows(spec, at)
	case corev1.Windows:
		return forbidLinux(spec, at)
	}
	return field.ErrorList{field.NotSupported(at.Child("os"), spec.OS.Name, sets.List(sets.New(corev1.Linux, corev1.Windows)))}
}

func forbidWindows(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	const message = "windows options cannot be set for a linux pod"
	if podWindows(spec) != nil {
		errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), message))
	}
	eachContainer(spec, at, func(c *corev1.Container, p *field.Path) {
		if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(p.Child("securityContext", "windowsOptions"), message))
		}
	})
	return errs
}

func forbidLinux(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	forbid := func(p *field.Path, given map[string]bool) {
		for child, is := range given {
			if is {
				errs = append(errs, field.Forbidden(p.Child(child), "cannot be set for a windows pod"))
			}
		}
	}
	forbid(at, map[string]bool{"hostPID": spec.HostPID, "hostIPC": spec.HostIPC, "hostUsers": spec.HostUsers != nil,
		"shareProcessNamespace": spec.ShareProcessNamespace != nil})
	if spec.Resources != nil {
		errs = append(errs, field.Forbidden(at.Child("resources"), "may not be set for a windows pod"))
	}
	if s := spec.SecurityContext; s != nil {
		forbid(at.Child("securityContext"), map[string]bool{"seLinuxOptions": s.SELinuxOptions != nil, "seccompProfile": s.SeccompProfile != nil,
			"appArmorProfile": s.AppArmorProfile != nil, "fsGroup": s.FSGroup != nil, "fsGroupChangePolicy": s.FSGroupChangePolicy != nil,
			"sysctls": len(s.Sysctls) > 0, "runAsUser": s.RunAsUser != nil, "runAsGroup": s.RunAsGroup != nil,
			"supplementalGroups": s.SupplementalGroups != nil, "supplementalGroupsPolicy": s.SupplementalGroupsPolicy != nil})
	}
	eachContainer(spec, at, func(c *corev1.Container, p *field.Path) {
		if s := c.SecurityContext; s != nil {
			forbid(p.Child("securityContext"), map[string]bool{"seLinuxOptions": s.SELinuxOptions != nil, "seccompProfile": s.SeccompProfile != nil,
				"appArmorProfile": s.AppArmorProfile != nil, "capabilities": s.Capabilities != nil, "readOnlyRootFilesystem": s.ReadOnlyRootFilesystem != nil,
				"privileged": s.Privileged != nil, "allowPrivilegeEscalation": s.AllowPrivilegeEscalation != nil, "procMount": s.ProcMount != nil,
				"runAsUser": s.RunAsUser != nil, "runAsGroup": s.RunAsGroup != nil})
		}
	})
	return errs
}

// eachContainer calls f with all containers and where they are.
func eachContainer(spec *corev1.PodSpec, at *field.Path, f func(*corev1.Container, *field.Path)) {
	for i := range spec.InitContainers {
		f(&spec.InitContainers[i], at.Child("initContainers").Index(i))
	}
	for i := range spec.Containers {
		f(&spec.Containers[i], at.Child("containers").Index(i))
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		f(&c, at.Child("ephemeralContainers").Index(i))
	}
}
