package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of activeDeadlineSeconds.
const maxActiveDeadline = 1<<31 - 1

var (
	restartPolicies = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	dnsPolicies     = []corev1.DNSPolicy{corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone}
)

// ValidateTemplate checks a pod template.
func ValidateTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, Validate(&t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// Validate checks a pod spec.
func Validate(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	volumes, errs := validateVolumes(spec.Volumes, path.Child("volumes"))
	claims, more := validatePodClaims(spec.ResourceClaims, path.Child("resourceClaims"))
	errs = append(errs, more...)
	errs = append(errs, validateContainers(podParts{spec: spec, volumes: volumes, claims: claims}, path)...)
	errs = append(errs, oneOf(spec.RestartPolicy, restartPolicies, path.Child("restartPolicy"))...)
	errs = append(errs, oneOf(spec.DNSPolicy, dnsPolicies, path.Child("dnsPolicy"))...)
	errs = append(errs, validateDNSConfig(spec, path.Child("dnsConfig"))...)
	errs = append(errs, metav1validation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(spec, path.Child("securityContext"))...)
	errs = append(errs, validateNames(spec, path)...)
	errs = append(errs, validateNumbers(spec, path)...)
	errs = append(errs, validateHostUse(spec, path)...)
	errs = append(errs, validateOS(spec, path)...)
	errs = append(errs, validateHostProcess(spec, path)...)
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, ValidateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	for i, alias := range spec.HostAliases {
		errs = append(errs, validation.IsValidIP(path.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, invalid(name, path.Child("hostAliases").Index(i).Child("hostnames").Index(j), validation.IsDNS1123Subdomain(name))...)
		}
	}
	gates := sets.New[string]()
	for i, gate := range spec.SchedulingGates {
		p := path.Child("schedulingGates").Index(i)
		errs = append(errs, ValidateQualifiedName(gate.Name, p)...)
		if gates.Has(gate.Name) {
			errs = append(errs, field.Duplicate(p, gate.Name))
		}
		gates.Insert(gate.Name)
	}
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, ValidateQualifiedName(string(gate.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	errs = append(errs, validatePodResources(spec, claims, path.Child("resources"))...)
	return append(errs, validateOverhead(spec.Overhead, path.Child("overhead"))...)
}

func validateNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	subdomain := func(value, child string) {
		if value != "" {
			errs = append(errs, invalid(value, path.Child(child), validation.IsDNS1123Subdomain(value))...)
		}
	}
	subdomain(spec.ServiceAccountName, "serviceAccountName")
	subdomain(spec.NodeName, "nodeName")
	subdomain(spec.PriorityClassName, "priorityClassName")
	if spec.RuntimeClassName != nil {
		errs = append(errs, invalid(*spec.RuntimeClassName, path.Child("runtimeClassName"), validation.IsDNS1123Subdomain(*spec.RuntimeClassName))...)
	}
	if spec.Hostname != "" {
		errs = append(errs, invalid(spec.Hostname, path.Child("hostname"), validation.IsDNS1123Label(spec.Hostname))...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, invalid(spec.Subdomain, path.Child("subdomain"), validation.IsDNS1123Label(spec.Subdomain))...)
	}
	return errs
}

// validateHostUse checks what excludes each other of the host's namespaces and the hostname.
func validateHostUse(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.HostUsers != nil && !*spec.HostUsers {
		const message = "when `hostUsers` is false"
		for child, given := range map[string]bool{"hostNetwork": spec.HostNetwork, "HostPID": spec.HostPID, "HostIPC": spec.HostIPC} {
			if given {
				errs = append(errs, field.Forbidden(path.Child(child), message))
			}
		}
	}
	name := spec.HostnameOverride
	if name == nil {
		return errs
	}
	const maxHostname = 64 // of the kernel
	at := path.Child("hostnameOverride")
	errs = append(errs, invalid(*name, at, validation.IsDNS1123Subdomain(*name))...)
	if len(*name) > maxHostname {
		errs = append(errs, field.TooLong(at, *name, maxHostname))
	}
	if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
		errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	if spec.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	return errs
}

func validateNumbers(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v := spec.TerminationGracePeriodSeconds; v == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	if v := spec.ActiveDeadlineSeconds; v != nil && (*v < 1 || *v > maxActiveDeadline) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *v, validation.InclusiveRangeError(1, maxActiveDeadline)))
	}
	if p := spec.PreemptionPolicy; p != nil && *p != corev1.PreemptLowerPriority && *p != corev1.PreemptNever {
		errs = append(errs, field.NotSupported(path.Child("preemptionPolicy"), *p,
			[]corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
	}
	return errs
}

func validateDNSConfig(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	c := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))}
		}
		if len(c.Nameservers) == 0 {
			errs = append(errs, field.Required(path.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
		}
	}
	if c == nil {
		return errs
	}
	const maxNameservers, maxSearches, maxSearchChars = 3, 32, 2048
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIP(path.Child("nameservers").Index(i), ns)...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, search := range c.Searches {
		if search != "." {
			name := strings.TrimSuffix(search, ".")
			errs = append(errs, invalid(search, path.Child("searches").Index(i), validation.IsDNS1123SubdomainWithUnderscore(name))...)
		}
	}
	for i, option := range c.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

// ValidateQualifiedName checks a name with an optional DNS prefix.
func ValidateQualifiedName(value string, path *field.Path) field.ErrorList {
	return invalid(value, path, validation.IsQualifiedName(value))
}

// invalid makes one error of each message.
func invalid(value any, path *field.Path, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range messages {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// required checks a value that must be one of a few.
func required[T ~string](value T, known sets.Set[T], path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return optional(value, known, path)
}

// oneOf is required for values that are listed in an order of their own.
func oneOf[T ~string](value T, known []T, path *field.Path) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(path, "")}
	case slices.Contains(known, value):
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, known)}
}

func optional[T ~string](value T, known sets.Set[T], path *field.Path) field.ErrorList {
	if value == "" || known.Has(value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, sets.List(known))}
}
