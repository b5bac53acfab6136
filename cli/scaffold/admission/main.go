// Command key-guard is a Keelson plugin of kind admission: it marks ConfigMaps, and
// refuses those with a forbidden key.
package main

import "keelson.dev/keelson/plugins/kit"

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "key-guard"
	kind = "admission"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeCluster,
	Description:  "Marks ConfigMaps and refuses a forbidden key.",
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newGuard(env) },
}

func main() { kit.Main(plugin) }
