package core

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

var endpoints = &resource.Definition[*corev1.Endpoints]{
	GroupVersion: version, Kind: "Endpoints", Plural: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
	New:            func() *corev1.Endpoints { return &corev1.Endpoints{} },
	NewList:        func() runtime.Object { return &corev1.EndpointsList{} },
	CreateOnUpdate: true,
	Default: func(e *corev1.Endpoints) {
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
			}
		}
	},
	Validate: validateEndpoints,
	Columns: []metav1.TableColumnDefinition{resource.NameColumn,
		resource.Column("Endpoints", "string", "The addresses and ports."), resource.AgeColumn},
	Row: func(e *corev1.Endpoints) []any { return []any{e.Name, printEndpoints(e), resource.Age(e)} },
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(subset.Addresses) == 0 && len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range subset.Addresses {
			errs = append(errs, validateEndpointAddress(&a, at.Child("addresses").Index(j))...)
		}
		for j, a := range subset.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(&a, at.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range subset.Ports {
			pp := at.Child("ports").Index(j)
			if p.Name == "" && len(subset.Ports) > 1 {
				errs = append(errs, field.Required(pp.Child("name"), ""))
			}
			if p.Name != "" {
				for _, msg := range validation.IsDNS1123Label(p.Name) {
					errs = append(errs, field.Invalid(pp.Child("name"), p.Name, msg))
				}
			}
			if p.AppProtocol != nil {
				errs = append(errs, podspec.ValidateQualifiedName(*p.AppProtocol, pp.Child("appProtocol"))...)
			}
			for _, msg := range validation.IsValidPortNum(int(p.Port)) {
				errs = append(errs, field.Invalid(pp.Child("port"), p.Port, msg))
			}
			if !protocols.Has(p.Protocol) {
				errs = append(errs, field.NotSupported(pp.Child("protocol"), p.Protocol, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}))
			}
		}
	}
	return errs
}

func validateEndpointAddress(a *corev1.EndpointAddress, at *field.Path) field.ErrorList {
	ip := at.Child("ip")
	errs := validation.IsValidIPForLegacyField(ip, a.IP, true, nil)
	if netutils.ParseIPSloppy(a.IP) == nil {
		errs = append(errs, field.Invalid(ip, a.IP, "must be a valid IP address"))
	}
	errs = append(errs, resource.ValidateEndpointAddress(a.IP, ip)...)
	if a.Hostname != "" {
		for _, msg := range validation.IsDNS1123Label(a.Hostname) {
			errs = append(errs, field.Invalid(at.Child("hostname"), a.Hostname, msg))
		}
	}
	if a.NodeName != nil {
		for _, msg := range validation.IsDNS1123Subdomain(*a.NodeName) {
			errs = append(errs, field.Invalid(at.Child("nodeName"), *a.NodeName, msg))
		}
	}
	return errs
}

// printEndpoints shows three of them, and how many more there are.
func printEndpoints(e *corev1.Endpoints) string {
	const shown = 3
	var list []string
	for _, subset := range e.Subsets {
		for _, a := range subset.Addresses {
			if len(subset.Ports) == 0 {
				list = append(list, a.IP)
			}
			for _, p := range subset.Ports {
				addr, err := netip.ParseAddr(a.IP)
				if err == nil {
					list = append(list, netip.AddrPortFrom(addr, uint16(p.Port)).String())
				}
			}
		}
	}
	sort.Strings(list)
	switch {
	case len(list) == 0:
		return "<none>"
	case len(list) > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ","), len(list)-shown)
	}
	return strings.Join(list, ",")
}
