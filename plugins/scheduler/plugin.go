package scheduler

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in plugin of kind scheduler.
var Plugin = kit.Plugin{
	Name:        "scheduler",
	Kind:        "scheduler",
	Description: "Gives each new pod a node that has room for it and suits it best.",
	Scope:       kit.ScopeCluster,
	Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods", "nodes", "services", "namespaces"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"policy"}, Resources: []string{"poddisruptionbudgets"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"delete"}},
		{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims", "persistentvolumes"}, Verbs: []string{"get", "list", "watch", "update"}},
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims", "deviceclasses", "resourceslices"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims", "resourceclaims/status", "resourceclaims/binding"}, Verbs: []string{"update", "patch"}},
		{APIGroups: []string{"storage.k8s.io"}, Resources: []string{"storageclasses", "csinodes", "csidrivers", "csistoragecapacities"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/binding", "bindings"}, Verbs: []string{"create"}},
		{APIGroups: []string{""}, Resources: []string{"pods/status"}, Verbs: []string{"patch", "update"}},
		{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
	},
	ConfigSchema: schema,
	InProcess:    true,
	New:          func(env *kit.Env) (kit.Runner, error) { return New(env) },
}

const schema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "schedulerName": {"type": "string", "default": "default-scheduler"},
    "initialBackoff": {"type": "string", "default": "1s"},
    "maxBackoff": {"type": "string", "default": "10s"},
    "percentageOfNodesToScore": {"type": "integer", "minimum": 0, "maximum": 100, "default": 0},
    "kubeSchedulerConfiguration": {"type": "object"}
  }
}`
