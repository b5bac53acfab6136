package podspec

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const sysctlPattern = `^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`

var (
	sysctlName = regexp.MustCompile(sysctlPattern)

	pullPolicies    = sets.New(corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	messagePolicies = sets.New(corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	protocols       = sets.New(corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	schemes         = sets.New(corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	seccompTypes    = sets.New(corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
)

func validSysctl(name string) bool { return len(name) <= 253 && sysctlName.MatchString(name) }

// validateContainers checks all containers of a spec; names are unique among them all.
func validateContainers(spec *corev1.PodSpec, volumes sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	check := func(c *corev1.Container, p *field.Path, init bool) {
		if names.Has(c.Name) && c.Name != "" {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, validateContainer(c, volumes, spec, p, init)...)
	}
	for i := range spec.InitContainers {
		check(&spec.InitContainers[i], at.Child("initContainers").Index(i), true)
	}
	for i := range spec.Containers {
		check(&spec.Containers[i], at.Child("containers").Index(i), false)
	}
	errs = append(errs, validateHostPorts(spec.Containers, at.Child("containers"))...)
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		p := at.Child("ephemeralContainers").Index(i)
		check(&c, p, false)
		errs = append(errs, validateEphemeral(&spec.EphemeralContainers[i], spec, p)...)
	}
	return errs
}

// validateEphemeral checks what an ephemeral container may not have.
func validateEphemeral(e *corev1.EphemeralContainer, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for child, given := range map[string]bool{
		"ports": len(e.Ports) > 0, "livenessProbe": e.LivenessProbe != nil, "readinessProbe": e.ReadinessProbe != nil,
		"startupProbe": e.StartupProbe != nil, "lifecycle": e.Lifecycle != nil,
		"resources": len(e.Resources.Limits)+len(e.Resources.Requests) > 0,
	} {
		if given {
			errs = append(errs, field.Forbidden(at.Child(child), "cannot be set for an Ephemeral Container"))
		}
	}
	if e.TargetContainerName == "" {
		return errs
	}
	for _, c := range append(append([]corev1.Container{}, spec.Containers...), spec.InitContainers...) {
		if c.Name == e.TargetContainerName {
			return errs
		}
	}
	return append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
}

func validateContainer(c *corev1.Container, volumes sets.Set[string], spec *corev1.PodSpec, at *field.Path, init bool) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, invalid(c.Name, at.Child("name"), validation.IsDNS1123Label(c.Name))...)
	}
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(at.Child("image"), ""))
	case c.Image != strings.TrimSpace(c.Image):
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, required(c.ImagePullPolicy, pullPolicies, at.Child("imagePullPolicy"))...)
	errs = append(errs, required(c.TerminationMessagePolicy, messagePolicies, at.Child("terminationMessagePolicy"))...)
	errs = append(errs, validatePorts(c.Ports, spec.HostNetwork, at.Child("ports"))...)
	errs = append(errs, validateEnv(c, at)...)
	errs = append(errs, validateMounts(c, volumes, at.Child("volumeMounts"))...)
	errs = append(errs, ValidateResources(&c.Resources, at.Child("resources"))...)
	errs = append(errs, validateSecurity(c.SecurityContext, spec, at.Child("securityContext"))...)

	restartable := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	if !init || restartable {
		errs = append(errs, validateProbe(c.LivenessProbe, at.Child("livenessProbe"))...)
		errs = append(errs, validateProbe(c.ReadinessProbe, at.Child("readinessProbe"))...)
		errs = append(errs, validateProbe(c.StartupProbe, at.Child("startupProbe"))...)
		for child, p := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "startupProbe": c.StartupProbe} {
			if p != nil && p.SuccessThreshold != 1 {
				errs = append(errs, field.Invalid(at.Child(child, "successThreshold"), p.SuccessThreshold, "must be 1"))
			}
		}
		if p := c.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
			errs = append(errs, field.Invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), *p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
		}
		return append(errs, validateLifecycle(c.Lifecycle, at.Child("lifecycle"))...)
	}
	for child, given := range map[string]bool{"livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil,
		"startupProbe": c.StartupProbe != nil, "lifecycle": c.Lifecycle != nil} {
		if given {
			errs = append(errs, field.Forbidden(at.Child(child), "may not be set for init containers without restartPolicy=Always"))
		}
	}
	return errs
}

func validatePorts(ports []corev1.ContainerPort, hostNetwork bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		p := at.Index(i)
		if port.Name != "" {
			msgs := validation.IsValidPortName(port.Name)
			errs = append(errs, invalid(port.Name, p.Child("name"), msgs)...)
			if len(msgs) == 0 && names.Has(port.Name) {
				errs = append(errs, field.Duplicate(p.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(p.Child("containerPort"), ""))
		} else {
			errs = append(errs, invalid(port.ContainerPort, p.Child("containerPort"), validation.IsValidPortNum(int(port.ContainerPort)))...)
		}
		if port.HostPort != 0 {
			errs = append(errs, invalid(port.HostPort, p.Child("hostPort"), validation.IsValidPortNum(int(port.HostPort)))...)
		}
		if hostNetwork && port.HostPort != port.ContainerPort {
			errs = append(errs, field.Invalid(p.Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
		}
		errs = append(errs, required(port.Protocol, protocols, p.Child("protocol"))...)
	}
	return errs
}

// validateHostPorts refuses two containers of a pod on one port of the host.
func validateHostPorts(containers []corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range containers {
		for j, port := range containers[i].Ports {
			if port.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

func validateEnv(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, env := range c.Env {
		p := at.Child("env").Index(i)
		if env.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		} else {
			errs = append(errs, invalid(env.Name, p.Child("name"), validation.IsRelaxedEnvVarName(env.Name))...)
		}
		if env.ValueFrom != nil {
			errs = append(errs, validateEnvSource(&env, p.Child("valueFrom"))...)
		}
	}
	for i, from := range c.EnvFrom {
		p := at.Child("envFrom").Index(i)
		if from.Prefix != "" {
			errs = append(errs, invalid(from.Prefix, p.Child("prefix"), validation.IsRelaxedEnvVarName(from.Prefix))...)
		}
		switch {
		case from.ConfigMapRef != nil && from.SecretRef != nil:
			errs = append(errs, field.Invalid(p, "", "may not have more than one field specified at a time"))
		case from.ConfigMapRef != nil && from.ConfigMapRef.Name == "":
			errs = append(errs, field.Required(p.Child("configMapRef", "name"), ""))
		case from.SecretRef != nil && from.SecretRef.Name == "":
			errs = append(errs, field.Required(p.Child("secretRef", "name"), ""))
		case from.ConfigMapRef == nil && from.SecretRef == nil:
			errs = append(errs, field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

var envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
	"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")

func validateEnvSource(env *corev1.EnvVar, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := 0
	if r := env.ValueFrom.FieldRef; r != nil {
		sources++
		errs = append(errs, validateFieldRef(r, envFields, at.Child("fieldRef"))...)
	}
	if r := env.ValueFrom.ResourceFieldRef; r != nil {
		sources++
		errs = append(errs, validateResourceRef(r, at.Child("resourceFieldRef"), false)...)
	}
	key := func(name, key string, p *field.Path) {
		sources++
		if name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		}
		if key == "" {
			errs = append(errs, field.Required(p.Child("key"), ""))
		} else {
			errs = append(errs, invalid(key, p.Child("key"), validation.IsConfigMapKey(key))...)
		}
	}
	if r := env.ValueFrom.ConfigMapKeyRef; r != nil {
		key(r.Name, r.Key, at.Child("configMapKeyRef"))
	}
	if r := env.ValueFrom.SecretKeyRef; r != nil {
		key(r.Name, r.Key, at.Child("secretKeyRef"))
	}
	if env.ValueFrom.FileKeyRef != nil {
		sources++
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

func validateFieldRef(r *corev1.ObjectFieldSelector, known sets.Set[string], at *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	if base, key, ok := subscript(r.FieldPath); ok {
		if base != "metadata.annotations" && base != "metadata.labels" {
			return field.ErrorList{field.Invalid(at, base, "does not support subscript")}
		}
		return invalid(key, at, validation.IsQualifiedName(strings.ToLower(key)))
	}
	if !known.Has(r.FieldPath) {
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

var resourceFields = sets.New("limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory")

func validateResourceRef(r *corev1.ResourceFieldSelector, at *field.Path, volume bool) field.ErrorList {
	if volume && r.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if r.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	if !resourceFields.Has(r.Resource) && !strings.HasPrefix(r.Resource, "limits.hugepages-") && !strings.HasPrefix(r.Resource, "requests.hugepages-") {
		return field.ErrorList{field.NotSupported(at.Child("resource"), r.Resource, sets.List(resourceFields))}
	}
	return nil
}

func validateMounts(c *corev1.Container, volumes sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	for i, m := range c.VolumeMounts {
		p := at.Index(i)
		switch {
		case m.Name == "":
			errs = append(errs, field.Required(p.Child("name"), ""))
		case !volumes.Has(m.Name):
			errs = append(errs, field.NotFound(p.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(p.Child("mountPath"), ""))
		}
		if paths.Has(m.MountPath) {
			errs = append(errs, field.Invalid(p.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths.Insert(m.MountPath)
		if m.SubPath != "" && m.SubPathExpr != "" {
			errs = append(errs, field.Invalid(p.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		if m.SubPath != "" {
			errs = append(errs, validateDescending(m.SubPath, p.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			errs = append(errs, validateDescending(m.SubPathExpr, p.Child("subPathExpr"))...)
		}
	}
	return errs
}

// validateDescending checks a path that stays below where it begins.
func validateDescending(target string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(target) {
		errs = append(errs, field.Invalid(at, target, "must be a relative path"))
	}
	return append(errs, validateNoBacksteps(target, at)...)
}

func validateNoBacksteps(target string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(target, "/"), "..") {
		return field.ErrorList{field.Invalid(at, target, "must not contain '..'")}
	}
	return nil
}

func validateSecurity(s *corev1.SecurityContext, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := validateID(s.RunAsUser, at.Child("runAsUser"))
	errs = append(errs, validateID(s.RunAsGroup, at.Child("runAsGroup"))...)
	errs = append(errs, validateSeccomp(s.SeccompProfile, at.Child("seccompProfile"))...)
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
	errs := required(p.Type, seccompTypes, at.Child("type"))
	if p.Type == corev1.SeccompProfileTypeLocalhost {
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return append(errs, field.Required(at.Child("localhostProfile"), "must be set when seccomp type is Localhost"))
		}
		return append(errs, validateDescending(*p.LocalhostProfile, at.Child("localhostProfile"))...)
	}
	if p.LocalhostProfile != nil {
		errs = append(errs, field.Invalid(at.Child("localhostProfile"), *p.LocalhostProfile, "can only be set when seccomp type is Localhost"))
	}
	return errs
}
