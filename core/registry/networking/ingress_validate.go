package networking

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateIngress(s *networkingv1.IngressSpec) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if s.DefaultBackend == nil && len(s.Rules) == 0 {
		errs = append(errs, field.Invalid(spec, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	for i, t := range s.TLS {
		at := spec.Child("tls").Index(i)
		for j, host := range t.Hosts {
			errs = append(errs, invalid(at.Child("hosts").Index(j), host, hostFaults(host))...)
		}
		if t.SecretName != "" {
			errs = append(errs, invalid(at.Child("secretName"), t.SecretName, validation.IsDNS1123Subdomain(t.SecretName))...)
		}
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, spec.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		errs = append(errs, validateRule(&s.Rules[i], spec.Child("rules").Index(i))...)
	}
	if s.IngressClassName != nil {
		errs = append(errs, invalid(spec.Child("ingressClassName"), *s.IngressClassName, validation.IsDNS1123Subdomain(*s.IngressClassName))...)
	}
	return errs
}

func invalid(at *field.Path, value string, msgs []string) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(at, value, msg))
	}
	return errs
}

func hostFaults(host string) []string {
	if strings.Contains(host, "*") {
		return validation.IsWildcardDNS1123Subdomain(host)
	}
	return validation.IsDNS1123Subdomain(host)
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, invalid(at.Child("host"), r.Host, hostFaults(r.Host))...)
	}
	if r.HTTP == nil {
		return errs
	}
	paths := at.Child("http", "paths")
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range r.HTTP.Paths {
		errs = append(errs, validatePath(&r.HTTP.Paths[i], paths.Index(i))...)
		errs = append(errs, validateBackend(&r.HTTP.Paths[i].Backend, paths.Index(i).Child("backend"))...)
	}
	return errs
}

// Parts that a path may not have, and not end with: whoever serves it might take them for others.
var (
	pathParts = []string{"//", "/./", "/../", "%2f", "%2F"}
	pathEnds  = []string{"/..", "/."}
)

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	at, kind := at.Child("path"), at.Child("pathType")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		if p.Path == "" {
			break
		}
		for _, part := range pathParts {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, "must not contain '"+part+"'"))
			}
		}
		for _, end := range pathEnds {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, "cannot end with '"+end+"'"))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(kind, *p.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Service != nil && b.Resource != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	service := at.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, invalid(service.Child("name"), b.Service.Name, validation.IsDNS1123Label(b.Service.Name))...)
	}
	switch port := b.Service.Port; {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name == "" && port.Number == 0:
		errs = append(errs, field.Required(at, "port name or number is required"))
	case port.Number != 0:
		for _, msg := range validation.IsValidPortNum(int(port.Number)) {
			errs = append(errs, field.Invalid(service.Child("port", "number"), port.Number, msg))
		}
	default:
		errs = append(errs, invalid(service.Child("port", "name"), port.Name, validation.IsValidPortName(port.Name))...)
	}
	return errs
}

// validateReference checks a reference to an object of any kind in the same namespace.
func validateReference(r *corev1.TypedLocalObjectReference, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, invalid(at.Child("apiGroup"), *r.APIGroup, validation.IsDNS1123Subdomain(*r.APIGroup))...)
	}
	errs = append(errs, validateSegment(r.Kind, at.Child("kind"))...)
	return append(errs, validateSegment(r.Name, at.Child("name"))...)
}

// validateSegment checks what has to be there, and becomes part of a path.
func validateSegment(v string, at *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return invalid(at, v, content.IsPathSegmentName(v))
}

func validateIngressAddresses(list []networkingv1.IngressLoadBalancerIngress, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, a := range list {
		p := at.Index(i)
		if a.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), a.IP, true, nil)...)
		}
		if a.Hostname == "" {
			continue
		}
		errs = append(errs, invalid(p.Child("hostname"), a.Hostname, validation.IsDNS1123Subdomain(a.Hostname))...)
		if _, err := netip.ParseAddr(a.Hostname); err == nil {
			errs = append(errs, field.Invalid(p.Child("hostname"), a.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
