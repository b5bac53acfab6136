package controllers

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in plugin of kind controllers.
var Plugin = kit.Plugin{
	Name:         "controllers",
	Kind:         "controllers",
	Description:  "Keeps deployments, endpoints, namespaces, nodes and their dependents as they were asked for.",
	Scope:        kit.ScopeCluster,
	Rules:        rules,
	ConfigSchema: schema,
	InProcess:    true,
	New:          func(env *kit.Env) (kit.Runner, error) { return New(env) },
}

// rules: the namespace controller and the garbage collector see and delete
// objects of any kind, also of kinds made later, so those verbs are on all.
// What the others write is listed.
var rules = []rbacv1.PolicyRule{
	{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch", "patch", "delete", "deletecollection"}},
	{NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*", "/version"}, Verbs: []string{"get"}},
	{APIGroups: []string{"apps"}, Resources: []string{"deployments", "deployments/status", "deployments/finalizers", "replicasets/status", "replicasets/finalizers"}, Verbs: []string{"update"}},
	{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"create", "update"}},
	{APIGroups: []string{""}, Resources: []string{"replicationcontrollers/status", "replicationcontrollers/finalizers"}, Verbs: []string{"update"}},
	{APIGroups: []string{""}, Resources: []string{"pods", "serviceaccounts", "configmaps", "endpoints", "events"}, Verbs: []string{"create", "update"}},
	{APIGroups: []string{""}, Resources: []string{"pods/status", "pods/finalizers", "nodes/status", "namespaces/status", "namespaces/finalize", "services/finalizers", "endpoints/finalizers"}, Verbs: []string{"update", "patch"}},
	{APIGroups: []string{""}, Resources: []string{"endpoints/restricted"}, Verbs: []string{"create"}},
	{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices", "endpointslices/restricted"}, Verbs: []string{"create", "update"}},
	{APIGroups: []string{""}, Resources: []string{"resourcequotas/status"}, Verbs: []string{"update"}},
	{APIGroups: []string{"policy"}, Resources: []string{"poddisruptionbudgets/status"}, Verbs: []string{"update"}},
	{APIGroups: []string{"events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "update"}},
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "controllers": {"type": "array", "items": {"type": "string"}, "default": ["*"], "description": "Controllers to run: * is all, -name takes one out."},
    "nodeMonitorPeriod": {"type": "string", "default": "5s"},
    "nodeMonitorGracePeriod": {"type": "string", "default": "50s"},
    "nodeStartupGracePeriod": {"type": "string", "default": "60s"},
    "nodeEvictionInterval": {"type": "string", "default": "10s"},
    "nodeCIDRMaskSizeIPv4": {"type": "integer", "default": 24},
    "nodeCIDRMaskSizeIPv6": {"type": "integer", "default": 64},
    "terminatedPodThreshold": {"type": "integer", "default": 12500}
  }
}`
