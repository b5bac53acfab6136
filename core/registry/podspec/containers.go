package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	pullPolicies    = sets.New(corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	messagePolicies = []corev1.TerminationMessagePolicy{corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError}
	protocols       = sets.New(corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	schemes         = sets.New(corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
)

// podParts is what the containers of a pod may refer to.
type podParts struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

// validateContainers checks all containers of a spec; names are unique among them all.
func validateContainers(parts podParts, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := parts.spec
	names := sets.New[string]()
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	check := func(c *corev1.Container, p *field.Path, form containerForm) {
		if names.Has(c.Name) && c.Name != "" {
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, validateContainer(c, parts, p, form)...)
	}
	for i := range spec.Containers {
		check(&spec.Containers[i], at.Child("containers").Index(i), mainContainer)
	}
	for i := range spec.InitContainers {
		check(&spec.InitContainers[i], at.Child("initContainers").Index(i), initContainer)
		errs = append(errs, validateHostPorts(spec.InitContainers[i:i+1], at.Child("initContainers").Index(i), true)...)
	}
	errs = append(errs, validateHostPorts(spec.Containers, at.Child("containers"), false)...)
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		p := at.Child("ephemeralContainers").Index(i)
		check(&c, p, ephemeralContainer)
		errs = append(errs, validateEphemeral(&spec.EphemeralContainers[i], spec, p)...)
	}
	return errs
}

// containerForm is in which of the three lists of a pod a container is.
type containerForm int

const (
	mainContainer containerForm = iota
	initContainer
	ephemeralContainer
)

// validateEphemeral checks what an ephemeral container may not have.
func validateEphemeral(e *corev1.EphemeralContainer, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for child, given := range map[string]bool{
		"ports": len(e.Ports) > 0, "livenessProbe": e.LivenessProbe != nil, "readinessProbe": e.ReadinessProbe != nil,
		"startupProbe": e.StartupProbe != nil, "lifecycle": e.Lifecycle != nil, "resizePolicy": len(e.ResizePolicy) > 0,
		"resources":     len(e.Resources.Limits)+len(e.Resources.Requests)+len(e.Resources.Claims) > 0,
		"restartPolicy": e.RestartPolicy != nil, "restartPolicyRules": len(e.RestartPolicyRules) > 0,
	} {
		if given {
			errs = append(errs, field.Forbidden(at.Child(child), "cannot be set for an Ephemeral Container"))
		}
	}
	if e.TargetContainerName == "" {
		return errs
	}
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			if list[i].Name == e.TargetContainerName {
				return errs
			}
		}
	}
	return append(errs, field.NotFound(at.Child("targetContainerName"), e.TargetContainerName))
}

func validateContainer(c *corev1.Container, parts podParts, at *field.Path, form containerForm) field.ErrorList {
	errs := validateImage(c, at)
	if c.ImagePullPolicy == "" || !pullPolicies.Has(c.ImagePullPolicy) {
		errs = append(errs, required(c.ImagePullPolicy, pullPolicies, at.Child("imagePullPolicy"))...)
	}
	if p := c.TerminationMessagePolicy; p == "" {
		errs = append(errs, field.Required(at.Child("terminationMessagePolicy"), ""))
	} else if p != messagePolicies[0] && p != messagePolicies[1] {
		errs = append(errs, field.NotSupported(at.Child("terminationMessagePolicy"), p, messagePolicies))
	}
	errs = append(errs, validatePorts(c.Ports, parts.spec.HostNetwork, at.Child("ports"))...)
	errs = append(errs, validateEnv(c, parts.volumes, at)...)
	errs = append(errs, validateMounts(c, parts.volumes, form == ephemeralContainer, at.Child("volumeMounts"))...)
	errs = append(errs, validateDevices(c, parts.volumes, at.Child("volumeDevices"))...)
	errs = append(errs, validateSecurity(c.SecurityContext, parts.spec, at.Child("securityContext"))...)
	if form == ephemeralContainer {
		return errs
	}
	errs = append(errs, ValidateResources(&c.Resources, parts.claims, at.Child("resources"))...)
	errs = append(errs, validateResizePolicy(c, parts.spec, at.Child("resizePolicy"))...)
	errs = append(errs, validateRestart(c, at)...)
	if len(c.VolumeDevices) > 0 && parts.spec.HostUsers != nil && !*parts.spec.HostUsers {
		errs = append(errs, field.Forbidden(at.Child("volumeDevices"), "when `hostUsers` is false"))
	}
	return append(errs, validateHooks(c, parts.spec, at, form)...)
}

func validateImage(c *corev1.Container, at *field.Path) field.ErrorList {
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
	return errs
}

// validateHooks checks probes and handlers. Init containers have none, unless they go on running.
func validateHooks(c *corev1.Container, spec *corev1.PodSpec, at *field.Path, form containerForm) field.ErrorList {
	var errs field.ErrorList
	if form == initContainer && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
		for child, given := range map[string]bool{"livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil,
			"startupProbe": c.StartupProbe != nil, "lifecycle": c.Lifecycle != nil} {
			if given {
				errs = append(errs, field.Forbidden(at.Child(child), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		return errs
	}
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
	return append(errs, validateLifecycle(c.Lifecycle, spec, at.Child("lifecycle"))...)
}

func validatePorts(ports []corev1.ContainerPort, hostNetwork bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		p := at.Index(i)
		if port.Name != "" {
			msgs := portName(port.Name)
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
		if hostNetwork && port.HostPort != 0 && port.HostPort != port.ContainerPort {
			errs = append(errs, field.Invalid(p.Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
		}
		errs = append(errs, required(port.Protocol, protocols, p.Child("protocol"))...)
	}
	return errs
}

// validateHostPorts refuses two uses of one port of the host. alone: at is where the one container is.
func validateHostPorts(containers []corev1.Container, at *field.Path, alone bool) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range containers {
		for j, port := range containers[i].Ports {
			if port.HostPort == 0 {
				continue
			}
			p := at.Index(i)
			if alone {
				p = at
			}
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(p.Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}
