package sim

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in plugin of kind sim. It runs only where a Plugin object asks
// for it.
var Plugin = kit.Plugin{
	Name:        "sim",
	Kind:        "sim",
	Description: "Plays nodes without machines, for trials at scale.",
	Scope:       kit.ScopeCluster,
	OnDemand:    true,
	Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get", "list", "watch", "create", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"nodes/status", "pods/status"}, Verbs: []string{"patch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch", "delete"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "create", "update"}},
	},
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return New(env) },
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "nodes": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 10},
    "namePrefix": {"type": "string", "default": "sim"},
    "zones": {"type": "integer", "minimum": 1, "default": 1},
    "region": {"type": "string", "default": "sim"},
    "capacity": {"type": "object", "additionalProperties": {"type": ["string", "integer", "number"]}},
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "taints": {"type": "array", "items": {"type": "object"}},
    "nodeAddresses": {"type": "string", "default": "198.18.0.0/15"},
    "podAddresses": {"type": "string", "default": "100.64.0.0/10"},
    "leaseDuration": {"type": "string", "default": "40s"},
    "statusInterval": {"type": "string", "default": "5m"},
    "startLatency": {"type": "string", "default": "0s"},
    "initLatency": {"type": "string", "default": "0s"},
    "readyLatency": {"type": "string", "default": "0s"},
    "stopLatency": {"type": "string", "default": "0s"},
    "failuresPerHour": {"type": "number", "minimum": 0, "default": 0},
    "silentZones": {"type": "array", "items": {"type": "string"}},
    "writers": {"type": "integer", "minimum": 1, "maximum": 256, "default": 64}
  }
}`
