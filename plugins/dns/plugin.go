package dns

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in cluster DNS.
var Plugin = kit.Plugin{
	Name:        "dns",
	Kind:        "dns",
	Description: "Cluster DNS, answered on each node",
	Scope:       kit.ScopeNode,
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list", "watch"}, APIGroups: []string{""}, Resources: []string{"services", "namespaces"}},
		{Verbs: []string{"get", "create", "update"}, APIGroups: []string{""}, Resources: []string{"services"}},
		{Verbs: []string{"list", "watch"}, APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}},
	},
	ConfigSchema: configSchema,
	InProcess:    true,
	New:          newRunner,
}

func newRunner(env *kit.Env) (kit.Runner, error) {
	var cfg Config
	if err := env.LoadConfig(&cfg); err != nil {
		return nil, err
	}
	client, err := env.Clientset()
	if err != nil {
		return nil, err
	}
	return newServer(env, cfg, client)
}
