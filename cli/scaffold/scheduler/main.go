// Command scheduler is a Keelson plugin that gives each new pod the node with the fewest
// pods of those that it fits.
package main

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "scheduler"
	kind = "scheduler"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeCluster,
	Description: "Gives each new pod the emptiest node that it fits.",
	Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "nodes"}},
		{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/binding"}},
	},
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newScheduler(env) },
}

func main() { kit.Main(plugin) }
