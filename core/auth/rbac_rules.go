package auth

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows says whether rule covers the request.
func allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	if !listed(rule.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return pathMatches(rule.NonResourceURLs, a.GetPath())
	}
	return listed(rule.APIGroups, a.GetAPIGroup()) &&
		resourceMatches(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

// listed says whether list has the value, or "*".
func listed(list []string, value string) bool {
	for _, v := range list {
		if v == "*" || v == value {
			return true
		}
	}
	return false
}

// resourceMatches understands pods, pods/log, */scale and *.
func resourceMatches(list []string, resource, subresource string) bool {
	for _, v := range list {
		if v == "*" {
			return true
		}
		r, sub, _ := strings.Cut(v, "/")
		if sub == subresource && (r == resource || r == "*" && sub != "") {
			return true
		}
	}
	return false
}

// pathMatches understands /healthz, /healthz/* and *.
func pathMatches(list []string, path string) bool {
	for _, v := range list {
		if v == "*" || v == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(v, "*"); ok && strings.HasPrefix(path, strings.TrimRight(prefix, "*")) {
			return true
		}
	}
	return false
}
