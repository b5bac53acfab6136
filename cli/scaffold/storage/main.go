// Command host-folders is a Keelson plugin of kind storage: its volumes are folders on the
// node, which it mounts where they are wanted.
package main

import "keelson.dev/keelson/plugins/kit"

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "host-folders"
	kind = "storage"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeNode,
	Description:  "Volumes that are folders on the node.",
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newDriver(env) },
}

func main() { kit.Main(plugin) }
