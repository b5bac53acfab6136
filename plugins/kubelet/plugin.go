package kubelet

import "keelson.dev/keelson/plugins/kit"

// Plugin describes the kubelet to the plugin host.
var Plugin = kit.Plugin{
	Name:               "kubelet",
	Kind:               "kubelet",
	Description:        "Runs the node's pods through the container runtime and reports their status and the node's.",
	Scope:              kit.ScopeNode,
	Requires:           []string{"runtime"},
	ServingCertificate: true,
	ConfigSchema:       configSchema,
	// No rules: it is the user system:node:NODE, whom the Node authorizer gives what its pods need.
	New: func(env *kit.Env) (kit.Runner, error) { return New(env) },
}
