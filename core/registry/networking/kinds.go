// Package networking describes the kinds of the group networking.k8s.io/v1.
//
// IPAddress objects are the claims by which services get their cluster IPs;
// the services' allocator in the core group's package writes them.
package networking

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/dryrun"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{networkPolicies, ingresses, ingressClasses, ipAddresses, serviceCIDRs}

var version = networkingv1.SchemeGroupVersion

var networkPolicies = &resource.Definition[*networkingv1.NetworkPolicy]{
	GroupVersion: version, Kind: "NetworkPolicy", Plural: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
	New:     func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
	NewList: func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	Spec:    func(p *networkingv1.NetworkPolicy) any { return &p.Spec },
	Default: defaultPolicy,
	Validate: func(p *networkingv1.NetworkPolicy) field.ErrorList {
		spec := field.NewPath("spec")
		errs := metav1validation.ValidateLabelSelector(&p.Spec.PodSelector, metav1validation.LabelSelectorValidationOptions{}, spec.Child("podSelector"))
		for i, r := range p.Spec.Ingress {
			errs = append(errs, validatePeers(r.From, r.Ports, spec.Child("ingress").Index(i), "from")...)
		}
		for i, r := range p.Spec.Egress {
			errs = append(errs, validatePeers(r.To, r.Ports, spec.Child("egress").Index(i), "to")...)
		}
		for i, t := range p.Spec.PolicyTypes {
			if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
				errs = append(errs, field.NotSupported(spec.Child("policyTypes").Index(i), t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
			}
		}
		return errs
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

func validatePeers(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, at *field.Path, name string) field.ErrorList {
	var errs field.ErrorList
	for i, peer := range peers {
		p := at.Child(name).Index(i)
		given := 0
		if peer.PodSelector != nil {
			given++
			errs = append(errs, metav1validation.ValidateLabelSelector(peer.PodSelector, metav1validation.LabelSelectorValidationOptions{}, p.Child("podSelector"))...)
		}
		if peer.NamespaceSelector != nil {
			given++
			errs = append(errs, metav1validation.ValidateLabelSelector(peer.NamespaceSelector, metav1validation.LabelSelectorValidationOptions{}, p.Child("namespaceSelector"))...)
		}
		if b := peer.IPBlock; b != nil {
			if given > 0 {
				errs = append(errs, field.Forbidden(p, "may not specify both ipBlock and another peer"))
			}
			given++
			errs = append(errs, validation.IsValidCIDRForLegacyField(p.Child("ipBlock", "cidr"), b.CIDR, false, nil)...)
			outer, err := netip.ParsePrefix(b.CIDR)
			for j, except := range b.Except {
				inner, innerErr := netip.ParsePrefix(except)
				if innerErr != nil || err != nil || !outer.Contains(inner.Addr()) || inner.Bits() <= outer.Bits() {
					errs = append(errs, field.Invalid(p.Child("ipBlock", "except").Index(j), except, "must be a strict subset of `cidr`"))
				}
			}
		}
		if given == 0 {
			errs = append(errs, field.Required(p, "must specify a peer"))
		}
	}
	for i, port := range ports {
		p := at.Child("ports").Index(i)
		if port.EndPort != nil && (port.Port == nil || port.Port.Type != 0 || *port.EndPort < port.Port.IntVal) {
			errs = append(errs, field.Invalid(p.Child("endPort"), *port.EndPort, "must be greater than or equal to `port`"))
		}
	}
	return errs
}

var ingresses = &resource.Definition[*networkingv1.Ingress]{
	GroupVersion: version, Kind: "Ingress", Plural: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
	New:     func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList: func() runtime.Object { return &networkingv1.IngressList{} },
	Spec:    func(i *networkingv1.Ingress) any { return &i.Spec },
	Status:  func(i *networkingv1.Ingress) any { return &i.Status },
	Validate: func(in *networkingv1.Ingress) field.ErrorList {
		spec := field.NewPath("spec")
		var errs field.ErrorList
		if in.Spec.DefaultBackend == nil && len(in.Spec.Rules) == 0 {
			errs = append(errs, field.Invalid(spec, in.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
		}
		if in.Spec.DefaultBackend != nil {
			errs = append(errs, validateBackend(in.Spec.DefaultBackend, spec.Child("defaultBackend"))...)
		}
		for i, r := range in.Spec.Rules {
			errs = append(errs, validateRule(&r, spec.Child("rules").Index(i))...)
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Class", "string", "The class, which tells who serves it."),
		resource.Column("Hosts", "string", "The hosts."),
		resource.Column("Address", "string", "Where it is served."),
		resource.Column("Ports", "string", "On which ports."),
		resource.AgeColumn,
	},
	Row: ingressRow,
}

func validateRule(r *networkingv1.IngressRule, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Host != "" {
		if _, err := netip.ParseAddr(r.Host); err == nil {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, "must be a DNS name, not an IP address"))
		}
		msgs := validation.IsDNS1123Subdomain(r.Host)
		if strings.Contains(r.Host, "*") {
			msgs = validation.IsWildcardDNS1123Subdomain(r.Host)
		}
		for _, msg := range msgs {
			errs = append(errs, field.Invalid(at.Child("host"), r.Host, msg))
		}
	}
	if r.HTTP == nil {
		return errs
	}
	if len(r.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(at.Child("http", "paths"), ""))
	}
	for i, path := range r.HTTP.Paths {
		p := at.Child("http", "paths").Index(i)
		switch {
		case path.PathType == nil:
			errs = append(errs, field.Required(p.Child("pathType"), "pathType must be specified"))
		case *path.PathType == networkingv1.PathTypeExact || *path.PathType == networkingv1.PathTypePrefix:
			if !strings.HasPrefix(path.Path, "/") {
				errs = append(errs, field.Invalid(p.Child("path"), path.Path, "must be an absolute path"))
			}
		case *path.PathType == networkingv1.PathTypeImplementationSpecific:
			if path.Path != "" && !strings.HasPrefix(path.Path, "/") {
				errs = append(errs, field.Invalid(p.Child("path"), path.Path, "must be an absolute path"))
			}
		default:
			errs = append(errs, field.NotSupported(p.Child("pathType"), *path.PathType,
				[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
		}
		errs = append(errs, validateBackend(&path.Backend, p.Child("backend"))...)
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Service != nil && b.Resource != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return nil
	case b.Service == nil:
		return field.ErrorList{field.Required(at, "resource or service backend is required")}
	}
	var errs field.ErrorList
	if b.Service.Name == "" {
		errs = append(errs, field.Required(at.Child("service", "name"), ""))
	}
	switch port := b.Service.Port; {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case port.Name == "" && port.Number == 0:
		errs = append(errs, field.Required(at, "port name or number is required"))
	case port.Number != 0:
		for _, msg := range validation.IsValidPortNum(int(port.Number)) {
			errs = append(errs, field.Invalid(at.Child("service", "port", "number"), port.Number, msg))
		}
	}
	return errs
}

func ingressRow(i *networkingv1.Ingress) []any {
	class, ports := "<none>", "80"
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	const shown = 3
	var hosts, addresses []string
	for _, r := range i.Spec.Rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	text := strings.Join(hosts, ",")
	if len(hosts) == 0 {
		text = "*"
	} else if len(hosts) > shown {
		text = fmt.Sprintf("%s + %d more...", strings.Join(hosts[:shown], ","), len(hosts)-shown)
	}
	for _, a := range i.Status.LoadBalancer.Ingress {
		if a.IP != "" {
			addresses = append(addresses, a.IP)
		} else {
			addresses = append(addresses, a.Hostname)
		}
	}
	return []any{i.Name, class, text, strings.Join(addresses, ","), ports, resource.Age(i)}
}

var ingressClasses = &resource.Definition[*networkingv1.IngressClass]{
	GroupVersion: version, Kind: "IngressClass", Plural: "ingressclasses", Singular: "ingressclass", ClusterScoped: true,
	New:     func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
	Spec:    func(c *networkingv1.IngressClass) any { return &c.Spec },
	Default: func(c *networkingv1.IngressClass) {
		if p := c.Spec.Parameters; p != nil && p.Scope == nil {
			scope := networkingv1.IngressClassParametersReferenceScopeCluster
			p.Scope = &scope
		}
	},
	Validate: func(c *networkingv1.IngressClass) field.ErrorList {
		if c.Spec.Controller == "" {
			return nil
		}
		return validation.IsDomainPrefixedPath(field.NewPath("spec", "controller"), c.Spec.Controller)
	},
	ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
		return apivalidation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Controller", "string", "Who serves it."),
		resource.Column("Parameters", "string", "Its parameters."), resource.AgeColumn},
	Row: func(c *networkingv1.IngressClass) []any {
		parameters := "<none>"
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{c.Name, c.Spec.Controller, parameters, resource.Age(c)}
	},
}

var ipAddresses = &resource.Definition[*networkingv1.IPAddress]{
	GroupVersion: version, Kind: "IPAddress", Plural: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"}, ClusterScoped: true,
	New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
	NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
	Name: func(name string, _ bool) []string {
		if a, err := netip.ParseAddr(name); err != nil || a.String() != name {
			return []string{"not a valid ip in canonical format: " + name}
		}
		return nil
	},
	Validate: func(a *networkingv1.IPAddress) field.ErrorList {
		at := field.NewPath("spec", "parentRef")
		ref := a.Spec.ParentRef
		if ref == nil {
			return field.ErrorList{field.Required(at, "")}
		}
		var errs field.ErrorList
		if ref.Resource == "" {
			errs = append(errs, field.Required(at.Child("resource"), ""))
		}
		if ref.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		return errs
	},
	ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
		return apivalidation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))
	},
	Setup: func(env *resource.Env, s *resource.Store) error {
		s.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
			if options == nil || !dryrun.IsDryRun(options.DryRun) {
				env.Addresses.Freed(context.Background(), obj.(*networkingv1.IPAddress)) // the hook is given no context
			}
		}
		return nil
	},
	Labels: []string{"parentRef.resource"},
	Fields: func(a *networkingv1.IPAddress) fields.Set {
		if a.Spec.ParentRef == nil {
			return nil
		}
		return fields.Set{"parentRef.resource": a.Spec.ParentRef.Resource}
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("ParentRef", "string", "Who has the address."), resource.AgeColumn},
	Row: func(a *networkingv1.IPAddress) []any {
		owner := "<none>"
		if ref := a.Spec.ParentRef; ref != nil {
			owner = strings.Trim(ref.Resource+"."+ref.Group, ".") + "/" + strings.TrimPrefix(ref.Namespace+"/"+ref.Name, "/")
		}
		return []any{a.Name, owner, resource.Age(a)}
	},
}
