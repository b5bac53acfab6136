package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

var (
	distributions  = []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode}
	familyPolicies = sets.New(corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)
	ipFamilies     = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	ipModes        = sets.New(corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
)

// validateClusterIPs checks the addresses and families that are given or were allocated.
func validateClusterIPs(s *corev1.Service, spec *field.Path) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	at, ips := spec.Child("clusterIPs"), s.Spec.ClusterIPs
	var errs field.ErrorList
	switch {
	case len(ips) == 0 && s.Spec.ClusterIP != "":
		errs = append(errs, field.Required(at, "must be set when `clusterIP` is specified"))
	case len(ips) > 0 && s.Spec.ClusterIP == "":
		errs = append(errs, field.Invalid(at, ips, "must be empty when `clusterIP` is not specified"))
	case len(ips) > 0 && s.Spec.ClusterIP != ips[0]:
		errs = append(errs, field.Invalid(at, ips, "first value must match `clusterIP`"))
	}
	for i, f := range s.Spec.IPFamilies {
		p := spec.Child("ipFamilies").Index(i)
		if !slices.Contains(ipFamilies, f) {
			errs = append(errs, field.NotSupported(p, f, ipFamilies))
		}
		if slices.Index(s.Spec.IPFamilies, f) != i {
			errs = append(errs, field.Duplicate(p, f))
		}
	}
	if p := s.Spec.IPFamilyPolicy; p != nil && !familyPolicies.Has(*p) {
		errs = append(errs, field.NotSupported(spec.Child("ipFamilyPolicy"), *p, sets.List(familyPolicies)))
	}
	if len(ips) > len(ipFamilies) {
		errs = append(errs, field.Invalid(at, ips, fmt.Sprintf("may only hold up to %d values", len(ipFamilies))))
	}
	return append(errs, validateAddresses(s, ips, at)...)
}

func validateAddresses(s *corev1.Service, ips []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(ips) > 1 && slices.Contains(ips, corev1.ClusterIPNone) {
		return field.ErrorList{field.Invalid(at, ips, "'None' must be the first and only value")}
	}
	seen := map[corev1.IPFamily]int{}
	for i, ip := range ips {
		if ip == corev1.ClusterIPNone {
			continue
		}
		if msgs := validation.IsValidIPForLegacyField(at.Index(i), ip, true, nil); len(msgs) > 0 {
			errs = append(errs, msgs...)
			continue
		}
		a, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		f := family(a)
		seen[f]++
		if i < len(s.Spec.IPFamilies) && slices.Contains(ipFamilies, s.Spec.IPFamilies[i]) && s.Spec.IPFamilies[i] != f {
			errs = append(errs, field.Invalid(at.Index(i), ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", s.Spec.IPFamilies[i], i)))
		}
	}
	if seen[corev1.IPv4Protocol] > 1 || seen[corev1.IPv6Protocol] > 1 {
		errs = append(errs, field.Invalid(at, ips, "may specify no more than one IP for each IP family"))
	}
	return errs
}

// validateServiceUpdate checks what may not change once it is set.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	const once = "may not change once set"
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if name := corev1.ServiceTypeExternalName; s.Spec.Type != name && old.Spec.Type != name {
		if len(old.Spec.ClusterIPs) > 0 && len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0] {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIPs, once))
		}
		if len(old.Spec.IPFamilies) > 0 && len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] && !headless(s) {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(0), s.Spec.IPFamilies, once))
		}
	}
	if lb := corev1.ServiceTypeLoadBalancer; s.Spec.Type == lb && old.Spec.Type == lb && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(spec.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, once))
	}
	if wantsHealthPort(s) && wantsHealthPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(spec.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

// specialAddress refuses addresses that no packet from elsewhere can have as its destination.
func specialAddress(a netip.Addr, ip string, at *field.Path) field.ErrorList {
	switch {
	case a.IsUnspecified():
		return field.ErrorList{field.Invalid(at, ip, fmt.Sprintf("may not be unspecified (%v)", ip))}
	case a.IsLoopback():
		return field.ErrorList{field.Invalid(at, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case a.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case a.IsLinkLocalMulticast():
		return field.ErrorList{field.Invalid(at, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")}
	}
	return nil
}

// validateSourceRanges checks who may use a load balancer, by field or by annotation.
func validateSourceRanges(s *corev1.Service, spec *field.Path) field.ErrorList {
	ranges, at := s.Spec.LoadBalancerSourceRanges, spec.Child("LoadBalancerSourceRanges")
	key := corev1.AnnotationLoadBalancerSourceRangesKey
	text, annotated := s.Annotations[key]
	if len(ranges) == 0 && (!annotated || strings.TrimSpace(text) == "") {
		return nil
	}
	var errs field.ErrorList
	if len(ranges) == 0 {
		at = field.NewPath("metadata", "annotations").Key(key)
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
		}
		for cidr := range strings.SplitSeq(strings.TrimSpace(text), ",") {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(cidr), false, nil)...)
			for _, e := range errs {
				if e.BadValue == strings.TrimSpace(cidr) {
					e.BadValue = text
				}
			}
		}
		return errs
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
	}
	for i, cidr := range ranges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(cidr), true, nil)...)
	}
	return errs
}

// validateServiceStatus checks what a load balancer reports.
func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	at := field.NewPath("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	var errs field.ErrorList
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(ingress) > 0 && len(old.Status.LoadBalancer.Ingress) == 0 {
		errs = append(errs, field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	for i, in := range ingress {
		p := at.Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(p.Child("ip"), in.IP, false, nil)...)
		}
		switch {
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(p.Child("ipMode"), "may not be specified when `ip` is not set"))
		case in.IPMode != nil && !ipModes.Has(*in.IPMode):
			errs = append(errs, field.NotSupported(p.Child("ipMode"), *in.IPMode, sets.List(ipModes)))
		}
		if in.Hostname == "" {
			continue
		}
		for _, msg := range validation.IsDNS1123Subdomain(in.Hostname) {
			errs = append(errs, field.Invalid(p.Child("hostname"), in.Hostname, msg))
		}
		if _, err := netip.ParseAddr(in.Hostname); err == nil {
			errs = append(errs, field.Invalid(p.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}

func serviceWarnings(s *corev1.Service) []string {
	var list []string
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		list = append(list, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	isName := s.Spec.Type == corev1.ServiceTypeExternalName
	if s.Spec.ExternalName != "" && !isName {
		list = append(list, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	if len(s.Spec.ExternalIPs) > 0 {
		if isName {
			list = append(list, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
		} else {
			list = append(list, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
		}
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		list = append(list, `spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	}
	return list
}
