package networking

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/keelson/core/registry/resource"
)

var networkPolicies = &resource.Definition[*networkingv1.NetworkPolicy]{
	GroupVersion: version, Kind: "NetworkPolicy", Plural: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
	New:      func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
	NewList:  func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Spec:     func(p *networkingv1.NetworkPolicy) any { return &p.Spec },
	Default:  defaultPolicy,
	Validate: func(p *networkingv1.NetworkPolicy) field.ErrorList { return validatePolicy(&p.Spec, nil) },
	// Ranges that were accepted once may stay.
	SkipValidateOnUpdate: true,
	ValidateUpdate: func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
		return validatePolicy(&p.Spec, ranges(&old.Spec))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Pod-Selector", "string", "Which pods it is about."), resource.AgeColumn},
	Row: func(p *networkingv1.NetworkPolicy) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), resource.Age(p)}
	},
}

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			if list[i].Protocol == nil {
				tcp := corev1.ProtocolTCP
				list[i].Protocol = &tcp
			}
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// ranges are the ranges of addresses in a policy.
func ranges(s *networkingv1.NetworkPolicySpec) []string {
	var list []string
	add := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				list = append(append(list, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for _, r := range s.Ingress {
		add(r.From)
	}
	for _, r := range s.Egress {
		add(r.To)
	}
	return list
}

var policyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}

func validatePolicy(s *networkingv1.NetworkPolicySpec, known []string) field.ErrorList {
	spec := field.NewPath("spec")
	errs := metav1validation.ValidateLabelSelector(&s.PodSelector, metav1validation.LabelSelectorValidationOptions{}, spec.Child("podSelector"))
	for i, r := range s.Ingress {
		at := spec.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(r.From, known, at.Child("from"))...)
	}
	for i, r := range s.Egress {
		at := spec.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(r.Ports, at.Child("ports"))...)
		errs = append(errs, validatePeers(r.To, known, at.Child("to"))...)
	}
	if len(s.PolicyTypes) > len(policyTypes) {
		return append(errs, field.Invalid(spec.Child("policyTypes"), s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		if !slices.Contains(policyTypes, t) {
			errs = append(errs, field.NotSupported(spec.Child("policyTypes").Index(i), t, policyTypes))
		}
	}
	return errs
}

func validatePeers(peers []networkingv1.NetworkPolicyPeer, known []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, peer := range peers {
		p := at.Index(i)
		if peer.PodSelector != nil {
			errs = append(errs, metav1validation.ValidateLabelSelector(peer.PodSelector, metav1validation.LabelSelectorValidationOptions{}, p.Child("podSelector"))...)
		}
		if peer.NamespaceSelector != nil {
			errs = append(errs, metav1validation.ValidateLabelSelector(peer.NamespaceSelector, metav1validation.LabelSelectorValidationOptions{}, p.Child("namespaceSelector"))...)
		}
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock == nil && !selects:
			errs = append(errs, field.Required(p, "must specify a peer"))
		case peer.IPBlock == nil:
		case selects:
			errs = append(errs, field.Forbidden(p, "may not specify both ipBlock and another peer"))
		default:
			errs = append(errs, validateIPBlock(peer.IPBlock, known, p.Child("ipBlock"))...)
		}
	}
	return errs
}

func validateIPBlock(b *networkingv1.IPBlock, known []string, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, known)
	_, outer, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	for i, except := range b.Except {
		p := at.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(p, except, true, known)...)
		_, inner, err := netutils.ParseCIDRSloppy(except)
		if err != nil {
			continue
		}
		size, _ := outer.Mask.Size()
		if within, _ := inner.Mask.Size(); !outer.Contains(inner.IP) || size >= within {
			errs = append(errs, field.Invalid(p, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

var policyProtocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}

func validatePolicyPorts(list []networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, port := range list {
		p := at.Index(i)
		if port.Protocol != nil && !slices.Contains(policyProtocols, *port.Protocol) {
			errs = append(errs, field.NotSupported(p.Child("protocol"), *port.Protocol, policyProtocols))
		}
		var msgs []string
		switch {
		case port.Port == nil:
			if port.EndPort != nil {
				errs = append(errs, field.Invalid(p.Child("endPort"), *port.EndPort, "may not be specified when `port` is not specified"))
			}
			continue
		case port.Port.Type == intstr.Int:
			for _, msg := range validation.IsValidPortNum(int(port.Port.IntVal)) {
				errs = append(errs, field.Invalid(p.Child("port"), port.Port.IntVal, msg))
			}
			if port.EndPort != nil && *port.EndPort < port.Port.IntVal {
				errs = append(errs, field.Invalid(p.Child("endPort"), port.Port.IntVal, "must be greater than or equal to `port`"))
			}
			if port.EndPort != nil {
				msgs = validation.IsValidPortNum(int(*port.EndPort))
			}
		default:
			for _, msg := range validation.IsValidPortName(port.Port.StrVal) {
				errs = append(errs, field.Invalid(p.Child("port"), port.Port.StrVal, msg))
			}
			if port.EndPort != nil {
				msgs = []string{"may not be specified when `port` is non-numeric"}
			}
		}
		for _, msg := range msgs {
			errs = append(errs, field.Invalid(p.Child("endPort"), *port.EndPort, msg))
		}
	}
	return errs
}
