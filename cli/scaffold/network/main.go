// Command flat-network is a Keelson plugin of kind network: it hangs the node's pods on
// one bridge.
package main

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "flat-network"
	kind = "network"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeNode,
	Description: "Hangs the node's pods on one bridge.",
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}},
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"pods"}},
	},
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newNetwork(env) },
}

func main() { kit.Main(plugin) }
