package discovery

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// Bounds of what one slice may hold.
const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
	maxHints     = 8
)

func validate(e *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	switch e.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), e.AddressType,
			[]discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}))
	}
	all := field.NewPath("endpoints")
	if len(e.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(all, len(e.Endpoints), maxEndpoints))
	}
	for i := range e.Endpoints {
		errs = append(errs, validateEndpoint(&e.Endpoints[i], e.AddressType, all.Index(i))...)
	}
	return append(errs, validatePorts(e.Ports)...)
}

func validateEndpoint(e *discoveryv1.Endpoint, typ discoveryv1.AddressType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := at.Child("addresses")
	if len(e.Addresses) == 0 {
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	}
	if len(e.Addresses) > maxAddresses {
		errs = append(errs, field.TooMany(addresses, len(e.Addresses), maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(a, typ, addresses, i)...)
	}
	if e.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*e.NodeName) {
			errs = append(errs, field.Invalid(at.Child("nodeName"), *e.NodeName, msg))
		}
	}
	if e.Hostname != nil {
		for _, msg := range validation.IsDNS1123Label(*e.Hostname) {
			errs = append(errs, field.Invalid(at.Child("hostname"), *e.Hostname, msg))
		}
	}
	if e.Hints != nil {
		errs = append(errs, validateHints(e.Hints, at.Child("hints"))...)
	}
	return errs
}

func validateAddress(a string, typ discoveryv1.AddressType, all *field.Path, i int) field.ErrorList {
	at := all.Index(i)
	switch typ {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(at, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		return nil
	}
	errs := validation.IsValidIPForLegacyField(at, a, true, nil)
	ip, err := netip.ParseAddr(a)
	if len(errs) == 0 && err == nil && ip.String() != a {
		errs = append(errs, field.Invalid(at, a, fmt.Sprintf("must be in canonical form (%q)", ip)))
	}
	if len(errs) == 0 && err == nil {
		switch { // of the whole list, as upstream has it
		case typ == discoveryv1.AddressTypeIPv4 && !ip.Is4():
			errs = append(errs, field.Invalid(all, a, "must be an IPv4 address"))
		case typ == discoveryv1.AddressTypeIPv6 && !ip.Is6():
			errs = append(errs, field.Invalid(all, a, "must be an IPv6 address"))
		}
	}
	return append(errs, resource.ValidateEndpointAddress(a, at)...)
}

func validateHints(h *discoveryv1.EndpointHints, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	zones, nodes := at.Child("forZones"), at.Child("forNodes")
	if len(h.ForZones) > maxHints {
		return append(errs, field.TooMany(zones, len(h.ForZones), maxHints))
	}
	seen := sets.Set[string]{}
	for i, z := range h.ForZones {
		if seen.Has(z.Name) {
			errs = append(errs, field.Duplicate(zones.Index(i).Child("name"), z.Name))
		}
		seen.Insert(z.Name)
		for _, msg := range validation.IsValidLabelValue(z.Name) {
			errs = append(errs, field.Invalid(zones.Index(i).Child("name"), z.Name, msg))
		}
	}
	if len(h.ForNodes) > maxHints {
		return append(errs, field.TooMany(nodes, len(h.ForNodes), maxHints))
	}
	seen = sets.Set[string]{}
	for i, n := range h.ForNodes {
		p := nodes.Index(i).Child("name")
		if seen.Has(n.Name) {
			errs = append(errs, field.Duplicate(p, n.Name))
		}
		seen.Insert(n.Name)
		for _, msg := range validation.IsDNS1123Subdomain(n.Name) {
			errs = append(errs, field.Invalid(p, n.Name, msg))
		}
	}
	return errs
}

var protocols = []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}

func validatePorts(list []discoveryv1.EndpointPort) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("ports")
	if len(list) > maxPorts {
		return append(errs, field.TooMany(at, len(list), maxPorts))
	}
	names := sets.Set[string]{}
	for i, p := range list {
		at := at.Index(i)
		if p.Name != nil {
			if *p.Name != "" {
				for _, msg := range validation.IsDNS1123Label(*p.Name) {
					errs = append(errs, field.Invalid(at.Child("name"), *p.Name, msg))
				}
			}
			if names.Has(*p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), *p.Name))
			}
			names.Insert(*p.Name)
		}
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP && *p.Protocol != corev1.ProtocolUDP && *p.Protocol != corev1.ProtocolSCTP {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, protocols))
		}
		if p.AppProtocol != nil {
			errs = append(errs, podspec.ValidateQualifiedName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
	}
	return errs
}
