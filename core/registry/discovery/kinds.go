// Package discovery describes the kind of the group discovery.k8s.io/v1, endpoint slices.
package discovery

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{endpointSlices}

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
	PrepareCreate: func(_ context.Context, e *discoveryv1.EndpointSlice) {
		e.Generation = 1
		dropTopology(e, nil)
	},
	PrepareUpdate: func(_ context.Context, e, old *discoveryv1.EndpointSlice) {
		e.Generation = old.Generation
		if differs(e, old) {
			e.Generation++
		}
		dropTopology(e, old)
	},
	Validate: validate,
	Warnings: func(e *discoveryv1.EndpointSlice) []string {
		if e.AddressType == discoveryv1.AddressTypeFQDN {
			return []string{"spec.addressType: FQDN endpoints are deprecated"}
		}
		return nil
	},
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

// differs tells whether more than the metadata, or the labels, have changed:
// the kind has no spec of its own.
func differs(e, old *discoveryv1.EndpointSlice) bool {
	now, was := *e, *old
	now.ObjectMeta, was.ObjectMeta = metav1.ObjectMeta{Labels: e.Labels}, metav1.ObjectMeta{Labels: old.Labels}
	return !apiequality.Semantic.DeepEqual(&now, &was)
}

// dropTopology leaves out the field of v1beta1, unless the endpoints stay as they are.
func dropTopology(e, old *discoveryv1.EndpointSlice) {
	if old != nil && apiequality.Semantic.DeepEqual(e.Endpoints, old.Endpoints) {
		return
	}
	for i := range e.Endpoints {
		e.Endpoints[i].DeprecatedTopology = nil
	}
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
