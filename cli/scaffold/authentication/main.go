// Command token-list is a Keelson plugin of kind authentication: it knows the tokens of
// its configuration.
package main

import "keelson.dev/keelson/plugins/kit"

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "token-list"
	kind = "authentication"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeCluster,
	Description:  "Knows the tokens of its configuration.",
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newAuthenticator(env) },
}

func main() { kit.Main(plugin) }
