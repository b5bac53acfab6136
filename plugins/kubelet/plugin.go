package kubelet

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"keelson.dev/keelson/plugins/kit"
)

// Plugin describes the kubelet to the plugin host.
var Plugin = kit.Plugin{
	Name:               "kubelet",
	Kind:               "kubelet",
	Description:        "Runs the node's pods through the container runtime and reports their status and the node's.",
	Scope:              kit.ScopeNode,
	Requires:           []string{"runtime"},
	ServingCertificate: true,
	ConfigSchema:       configSchema,
	Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"create", "get", "list", "watch", "update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status"}, Verbs: []string{"update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"update", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps", "services"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "update", "patch"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"create", "get", "update", "patch"}},
		{APIGroups: []string{"node.k8s.io"}, Resources: []string{"runtimeclasses"}, Verbs: []string{"get"}},
	},
	New: func(env *kit.Env) (kit.Runner, error) { return New(env) },
}
