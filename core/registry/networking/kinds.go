// Package networking describes the kinds of the group networking.k8s.io/v1.
//
// IPAddress objects are the claims by which services get their cluster IPs;
// the services' allocator in the core group's package writes them.
package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{networkPolicies, ingresses, ingressClasses, ipAddresses, serviceCIDRs}

var version = networkingv1.SchemeGroupVersion
