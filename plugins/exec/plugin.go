package exec

import "keelson.dev/keelson/plugins/kit"

// Plugin is the built-in program behind spec.source.program: exec. Its name, kind, scope
// and rules are those of the Plugin object.
var Plugin = kit.Plugin{
	Name:         "exec",
	Kind:         "exec",
	Generic:      true,
	Description:  "A program of the node, run as a plugin",
	Scope:        kit.ScopeCluster,
	Requires:     []string{"network"}, // a runtime's CNI executable is told the socket; none is called by exec
	ConfigSchema: configSchema,
	New:          func(env *kit.Env) (kit.Runner, error) { return New(env) },
}
