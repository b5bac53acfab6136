package registry

import (
	"k8s.io/apimachinery/pkg/runtime/schema"

	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// keyPrefixes are the resources that upstream keeps elsewhere than under their
// own name, for reasons of age.
var keyPrefixes = map[schema.GroupResource]string{
	{Resource: "nodes"}:                                    "minions",
	{Resource: "services"}:                                 "services/specs",
	{Resource: "endpoints"}:                                "services/endpoints",
	{Resource: "replicationcontrollers"}:                   "controllers",
	{Resource: "rangeallocations"}:                         "ranges",
	{Group: "networking.k8s.io", Resource: "ingresses"}:    "ingress",
	{Group: "events.k8s.io", Resource: "events"}:           "events",
	{Group: "policy", Resource: "podsecuritypolicies"}:     "podsecuritypolicy",
	{Group: "extensions", Resource: "podsecuritypolicies"}: "podsecuritypolicy",
}

// KeyPrefix tells under which folder of /registry the objects of a resource
// are stored: the same as kube-apiserver's, so that a store can be exported to
// etcd and imported from it without renaming. Kubernetes' own kinds are stored
// without their group, those of custom resources, of aggregated APIs' own and
// of keelson.dev under their group.
func KeyPrefix(resource schema.GroupResource) string {
	if prefix, ok := keyPrefixes[resource]; ok {
		return prefix
	}
	if builtIn(resource.Group) {
		return resource.Resource
	}
	return resource.Group + "/" + resource.Resource
}

// builtIn says whether a group is one of those that upstream keeps without the
// group's name. apiextensions.k8s.io and apiregistration.k8s.io, which come
// from servers of their own, are not.
func builtIn(group string) bool {
	switch group {
	case keelsonv1alpha1.GroupName, "apiextensions.k8s.io", "apiregistration.k8s.io":
		return false
	}
	return Scheme.IsGroupRegistered(group)
}
