package main

import (
	"strings"

	"keelson.dev/keelson/core/kernel"
	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/dns"
	"keelson.dev/keelson/plugins/exec"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kubelet"
	"keelson.dev/keelson/plugins/network"
	"keelson.dev/keelson/plugins/proxy"
	"keelson.dev/keelson/plugins/runtime"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/plugins/sim"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// builtins are all built-in plugins, in the order in which lists show them. This
// is the one place that knows them.
var builtins = []kit.Plugin{
	controllers.Plugin,
	scheduler.Plugin,
	kubelet.Plugin,
	runtime.Plugin,
	network.Plugin,
	proxy.Plugin,
	dns.Plugin,
	exec.Plugin,
	sim.Plugin,
}

func builtin(name string) (kit.Plugin, bool) {
	for _, p := range builtins {
		if p.Name == name {
			return p, true
		}
	}
	return kit.Plugin{}, false
}

func builtinNames() string {
	names := make([]string, len(builtins))
	for i, p := range builtins {
		names[i] = p.Name
	}
	return strings.Join(names, ", ")
}

// kernelBuiltins is what the kernel is told of them: what it needs to know before
// it can ask the plugin itself.
func kernelBuiltins() []kernel.Builtin {
	list := make([]kernel.Builtin, len(builtins))
	for i, p := range builtins {
		if p.Scope == "" {
			p.Scope = kit.ScopeNode // as Describe says of it
		}
		list[i] = kernel.Builtin{Name: p.Name, Kind: p.Kind, Scope: v1alpha1.PluginScope(p.Scope), Generic: p.Generic, OnDemand: p.OnDemand}
	}
	return list
}
