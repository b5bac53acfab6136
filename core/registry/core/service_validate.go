package core

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

var (
	serviceTypes = sets.New(corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	affinities   = sets.New(corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	protocols    = sets.New(corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
)

func validateService(s *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if !serviceTypes.Has(s.Spec.Type) {
		errs = append(errs, field.NotSupported(spec.Child("type"), s.Spec.Type, sets.List(serviceTypes)))
	}
	errs = append(errs, validateServiceType(s, spec)...)
	errs = append(errs, validateServicePorts(s, spec.Child("ports"))...)
	errs = append(errs, metav1validation.ValidateLabels(s.Spec.Selector, spec.Child("selector"))...)
	if !affinities.Has(s.Spec.SessionAffinity) {
		errs = append(errs, field.NotSupported(spec.Child("sessionAffinity"), s.Spec.SessionAffinity, sets.List(affinities)))
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if n := *c.ClientIP.TimeoutSeconds; n <= 0 || n > maxAffinitySeconds {
			errs = append(errs, field.Invalid(spec.Child("sessionAffinityConfig", "clientIP", "timeoutSeconds"), n,
				fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
		}
	}
	errs = append(errs, validateClusterIPs(s, spec)...)
	for i, ip := range s.Spec.ExternalIPs {
		p := spec.Child("externalIPs").Index(i)
		a, err := netip.ParseAddr(ip)
		if err != nil {
			errs = append(errs, field.Invalid(p, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
		} else {
			errs = append(errs, specialAddress(a, ip, p)...)
		}
	}
	errs = append(errs, validateSourceRanges(s, spec)...)
	return append(errs, validateTrafficPolicies(s, spec)...)
}

func validateTrafficPolicies(s *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch p := s.Spec.ExternalTrafficPolicy; {
	case p == "" && exposed(s):
		errs = append(errs, field.Required(spec.Child("externalTrafficPolicy"), ""))
	case p != "" && !external(s):
		errs = append(errs, field.Invalid(spec.Child("externalTrafficPolicy"), p, "may only be set for externally-accessible services"))
	case p != "" && p != corev1.ServiceExternalTrafficPolicyCluster && p != corev1.ServiceExternalTrafficPolicyLocal:
		errs = append(errs, field.NotSupported(spec.Child("externalTrafficPolicy"), p,
			[]corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}))
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p != corev1.ServiceInternalTrafficPolicyCluster && *p != corev1.ServiceInternalTrafficPolicyLocal {
		errs = append(errs, field.NotSupported(spec.Child("internalTrafficPolicy"), *p,
			[]corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}))
	}
	if p := s.Spec.TrafficDistribution; p != nil && !slices.Contains(distributions, *p) {
		errs = append(errs, field.NotSupported(spec.Child("trafficDistribution"), *p, distributions))
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 && !wantsHealthPort(s) {
		errs = append(errs, field.Invalid(spec.Child("healthCheckNodePort"), n, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		const only = "may only be used when `type` is 'LoadBalancer'"
		if s.Spec.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(spec.Child("allocateLoadBalancerNodePorts"), only))
		}
		if s.Spec.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(spec.Child("loadBalancerClass"), only))
		}
	}
	if c := s.Spec.LoadBalancerClass; c != nil {
		for _, msg := range validation.IsQualifiedName(*c) {
			errs = append(errs, field.Invalid(spec.Child("loadBalancerClass"), *c, msg))
		}
	}
	return errs
}

func validateServiceType(s *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if headless(s) {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		for child, given := range map[string]bool{"clusterIPs": s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) > 0,
			"ipFamilies": len(s.Spec.IPFamilies) > 0, "ipFamilyPolicy": s.Spec.IPFamilyPolicy != nil} {
			if given {
				errs = append(errs, field.Forbidden(spec.Child(child), "may not be set for ExternalName services"))
			}
		}
		if s.Spec.ExternalName == "" {
			return append(errs, field.Required(spec.Child("externalName"), ""))
		}
		return append(errs, fqdn(s.Spec.ExternalName, spec.Child("externalName"))...)
	}
	return errs
}

func fqdn(name string, at *field.Path) field.ErrorList {
	if len(name) > 0 && name[len(name)-1] == '.' {
		name = name[:len(name)-1]
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validateServicePorts(s *corev1.Service, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Spec.Ports) == 0 && !headless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(at, ""))
	}
	names, numbers, nodePorts := sets.New[string](), sets.New[string](), sets.New[string]()
	for i, port := range s.Spec.Ports {
		p := at.Index(i)
		switch {
		case port.Name == "" && len(s.Spec.Ports) > 1:
			errs = append(errs, field.Required(p.Child("name"), ""))
		case port.Name != "":
			for _, msg := range validation.IsDNS1123Label(port.Name) {
				errs = append(errs, field.Invalid(p.Child("name"), port.Name, msg))
			}
			if names.Has(port.Name) {
				errs = append(errs, field.Duplicate(p.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		for _, msg := range validation.IsValidPortNum(int(port.Port)) {
			errs = append(errs, field.Invalid(p.Child("port"), port.Port, msg))
		}
		if !protocols.Has(port.Protocol) {
			errs = append(errs, field.NotSupported(p.Child("protocol"), port.Protocol, sets.List(protocols)))
		}
		if a := port.AppProtocol; a != nil {
			for _, msg := range validation.IsQualifiedName(*a) {
				errs = append(errs, field.Invalid(p.Child("appProtocol"), *a, msg))
			}
		}
		errs = append(errs, validateTargetPort(port.TargetPort, p.Child("targetPort"))...)
		if key := fmt.Sprintf("%s/%d", port.Protocol, port.Port); numbers.Has(key) {
			errs = append(errs, field.Duplicate(p, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port}))
		} else {
			numbers.Insert(key)
		}
		if port.NodePort == 0 {
			continue
		}
		if !exposed(s) {
			errs = append(errs, field.Forbidden(p.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", s.Spec.Type)))
		}
		key := fmt.Sprintf("%s/%d", port.Protocol, port.NodePort)
		if nodePorts.Has(key) {
			errs = append(errs, field.Duplicate(p.Child("nodePort"), port.NodePort))
		}
		nodePorts.Insert(key)
	}
	return errs
}

func validateTargetPort(port intstr.IntOrString, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if port.Type == intstr.Int {
		for _, msg := range validation.IsValidPortNum(port.IntValue()) {
			errs = append(errs, field.Invalid(at, port.IntValue(), msg))
		}
		return errs
	}
	for _, msg := range validation.IsValidPortName(port.StrVal) {
		errs = append(errs, field.Invalid(at, port.StrVal, msg))
	}
	return errs
}
