// Package core describes the kinds of the core API group (v1): pods, services,
// nodes and the like, one file each.
//
// Pods and services are more than data: binding, eviction and the ways into a
// container are subresources of pods, and services get their cluster IPs and
// node ports here, from allocators that are stored beside them.
package core

import (
	corev1 "k8s.io/api/core/v1"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{
	namespaces,
	nodes,
	secrets,
	serviceAccounts,
	pods,
	services,
	rangeAllocations,
	configMaps,
	events,
	endpoints,
	persistentVolumes,
	persistentVolumeClaims,
	limitRanges,
	resourceQuotas,
	podTemplates,
	replicationControllers,
	bindings,
	componentStatuses,
}

var version = corev1.SchemeGroupVersion
