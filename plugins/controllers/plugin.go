package controllers

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in plugin of kind controllers.
var Plugin = kit.Plugin{
	Name:         "controllers",
	Kind:         "controllers",
	Description:  "Keeps deployments, endpoints, namespaces, nodes and their dependents as they were asked for.",
	Scope:        kit.ScopeCluster,
	Rules:        rules(),
	ConfigSchema: schema,
	InProcess:    true,
	New:          func(env *kit.Env) (kit.Runner, error) { return New(env) },
}

// rules: the namespace controller and the garbage collector see and delete
// objects of any kind, also of kinds made later, so those verbs are on all.
// What the others write, each says itself.
func rules() []rbacv1.PolicyRule {
	out := []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch", "patch", "delete", "deletecollection"}},
		{NonResourceURLs: []string{"/api", "/api/*", "/apis", "/apis/*", "/version"}, Verbs: []string{"get"}},
		allow("", "create,update", "events"),
		allow("events.k8s.io", "create,update", "events"),
	}
	for _, d := range definitions {
		for _, r := range d.rules {
			if !slices.ContainsFunc(out, func(o rbacv1.PolicyRule) bool { return o.String() == r.String() }) {
				out = append(out, r)
			}
		}
	}
	return out
}

// allow is a rule for resources of one group; verbs are parted by commas.
func allow(group, verbs string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: strings.Split(verbs, ",")}
}

// forSigner is a rule for what is done in the name of one signer of certificates.
func forSigner(verb, signer string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{signer}, Verbs: []string{verb}}
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
    "nodeSecondaryEvictionInterval": {"type": "string", "default": "100s"},
    "unhealthyZoneThreshold": {"type": "number", "default": 0.55},
    "largeClusterSizeThreshold": {"type": "integer", "default": 50},
    "nodeCIDRMaskSizeIPv4": {"type": "integer", "default": 24},
    "nodeCIDRMaskSizeIPv6": {"type": "integer", "default": 64},
    "terminatedPodThreshold": {"type": "integer", "default": 12500},
    "legacyTokenCleanUpPeriod": {"type": "string", "default": "8760h"},
    "hpaSyncPeriod": {"type": "string", "default": "15s"},
    "hpaDownscaleStabilization": {"type": "string", "default": "5m"},
    "hpaTolerance": {"type": "number", "default": 0.1},
    "hpaCPUInitializationPeriod": {"type": "string", "default": "5m"},
    "hpaInitialReadinessDelay": {"type": "string", "default": "30s"}
  }
}`
