package network

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the built-in pod network: a bridge on each node and routes between nodes.
var Plugin = kit.Plugin{
	Name:        "network",
	Kind:        "network",
	Description: "Pod network: bridge, veth pairs, addresses, host ports, routes between nodes",
	Scope:       kit.ScopeNode,
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"nodes"}},
	},
	ConfigSchema: configSchema,
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
	return newServer(env, cfg, client), nil
}
