// Command namespace-labels is a Keelson plugin: it gives each namespace the labels that
// its configuration names.
package main

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "namespace-labels"
	kind = "controller"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeCluster,
	Description: "Gives each namespace the labels of its configuration.",
	// The plugin's identity, system:plugin:namespace-labels, may do this and no more.
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch", "patch"}, APIGroups: []string{""}, Resources: []string{"namespaces"}},
	},
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newController(env) },
}

func main() { kit.Main(plugin) }
