// Command reader-list is a Keelson plugin of kind authorization: it lets some users read
// everything, and keeps others from anything.
package main

import "keelson.dev/keelson/plugins/kit"

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "reader-list"
	kind = "authorization"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeCluster,
	Description:  "Lets some users read, and blocks others.",
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newAuthorizer(env) },
}

func main() { kit.Main(plugin) }
