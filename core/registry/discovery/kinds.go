// Package discovery describes the kind of the group discovery.k8s.io/v1, endpoint slices.
package discovery

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{endpointSlices}

// Bounds of what one slice may hold.
const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
)

var endpointSlices = &resource.Definition[*discoveryv1.EndpointSlice]{
	GroupVersion: discoveryv1.SchemeGroupVersion, Kind: "EndpointSlice", Plural: "endpointslices", Singular: "endpointslice",
	New:     func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
	NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	Default: func(e *discoveryv1.EndpointSlice) {
		for i := range e.Ports {
			if e.Ports[i].Name == nil {
				empty := ""
				e.Ports[i].Name = &empty
			}
			if e.Ports[i].Protocol == nil {
				tcp := corev1.ProtocolTCP
				e.Ports[i].Protocol = &tcp
			}
		}
	},
	// The slice has no status, and all but its metadata counts as spec.
	Validate: validate,
	ValidateUpdate: func(e, old *discoveryv1.EndpointSlice) field.ErrorList {
		return apivalidation.ValidateImmutableField(e.AddressType, old.AddressType, field.NewPath("addressType"))
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("AddressType", "string", "What its addresses are."),
		resource.Column("Ports", "string", "The ports of all endpoints."),
		resource.Column("Endpoints", "string", "The addresses."),
		resource.AgeColumn,
	},
	Row: func(e *discoveryv1.EndpointSlice) []any {
		return []any{e.Name, string(e.AddressType), ports(e), addresses(e), resource.Age(e)}
	},
}

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
		errs = append(errs, field.TooMany(all, len(e.Endpoints), maxEndpoints))
	}
	for i, endpoint := range e.Endpoints {
		at := all.Index(i).Child("addresses")
		if len(endpoint.Addresses) == 0 {
			errs = append(errs, field.Required(at, "must contain at least 1 address"))
		}
		if len(endpoint.Addresses) > maxAddresses {
			errs = append(errs, field.TooMany(at, len(endpoint.Addresses), maxAddresses))
		}
		for j, a := range endpoint.Addresses {
			errs = append(errs, validateAddress(a, e.AddressType, at.Index(j))...)
		}
	}
	return append(errs, validatePorts(e.Ports)...)
}

func validateAddress(a string, typ discoveryv1.AddressType, at *field.Path) field.ErrorList {
	if typ == discoveryv1.AddressTypeFQDN {
		return validation.IsFullyQualifiedDomainName(at, a)
	}
	ip, err := netip.ParseAddr(a)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, a, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
	case typ == discoveryv1.AddressTypeIPv4 && !ip.Is4():
		return field.ErrorList{field.Invalid(at, a, "must be an IPv4 address")}
	case typ == discoveryv1.AddressTypeIPv6 && !ip.Is6():
		return field.ErrorList{field.Invalid(at, a, "must be an IPv6 address")}
	case ip.IsUnspecified():
		return field.ErrorList{field.Invalid(at, a, fmt.Sprintf("may not be unspecified (%v)", a))}
	case ip.IsLoopback():
		return field.ErrorList{field.Invalid(at, a, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case ip.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(at, a, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	}
	return nil
}

func validatePorts(list []discoveryv1.EndpointPort) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("ports")
	if len(list) > maxPorts {
		errs = append(errs, field.TooMany(at, len(list), maxPorts))
	}
	names := map[string]bool{}
	for i, p := range list {
		if p.Name != nil {
			if *p.Name != "" {
				for _, msg := range validation.IsDNS1123Label(*p.Name) {
					errs = append(errs, field.Invalid(at.Index(i).Child("name"), *p.Name, msg))
				}
			}
			if names[*p.Name] {
				errs = append(errs, field.Duplicate(at.Index(i).Child("name"), *p.Name))
			}
			names[*p.Name] = true
		}
		if p.Port != nil {
			for _, msg := range validation.IsValidPortNum(int(*p.Port)) {
				errs = append(errs, field.Invalid(at.Index(i).Child("port"), *p.Port, msg))
			}
		}
	}
	return errs
}

// shown is how many ports or addresses a table shows.
const shown = 3

func ports(e *discoveryv1.EndpointSlice) string {
	var list []string
	for _, p := range e.Ports {
		if p.Port != nil {
			list = append(list, strconv.Itoa(int(*p.Port)))
		} else {
			list = append(list, "*")
		}
	}
	return short(list, "<unset>")
}

func addresses(e *discoveryv1.EndpointSlice) string {
	var list []string
	for _, endpoint := range e.Endpoints {
		list = append(list, endpoint.Addresses...)
	}
	return short(list, "<unset>")
}

func short(list []string, none string) string {
	switch {
	case len(list) == 0:
		return none
	case len(list) > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ","), len(list)-shown)
	}
	return strings.Join(list, ",")
}
