package runtime

import "keelson.dev/keelson/plugins/kit"

// Plugin runs a node's containers: a CRI v1 server without a daemon.
var Plugin = kit.Plugin{
	Name:         "runtime",
	Kind:         "runtime",
	Description:  "Runs pods' containers: CRI v1 with overlayfs, conmon and crun",
	Scope:        kit.ScopeNode,
	Requires:     []string{"network"},
	ConfigSchema: configSchema,
	New: func(env *kit.Env) (kit.Runner, error) {
		var config Config
		if err := env.LoadConfig(&config); err != nil {
			return nil, err
		}
		return newRunner(env, config)
	},
}
