// Command cri-gate is a Keelson plugin of kind runtime: it stands before a container
// runtime that the node has already, and passes CRI's calls on to it.
package main

import "keelson.dev/keelson/plugins/kit"

// What the Plugin object has to say too: its name, and spec.kind.
const (
	name = "cri-gate"
	kind = "runtime"
)

// plugin is what the kernel learns before it starts any work.
var plugin = kit.Plugin{
	Name: name, Kind: kind, Version: "0.1.0", Scope: kit.ScopeNode,
	Description:  "Passes CRI's calls on to a runtime that the node has.",
	ConfigSchema: schema,
	New:          func(env *kit.Env) (kit.Runner, error) { return newGate(env) },
}

func main() { kit.Main(plugin) }
