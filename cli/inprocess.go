package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/version"
	"keelson.dev/keelson/plugins/kit"
)

// inProcessFlag names the built-in plugins that run within the kernel's process.
const inProcessFlag = "plugins-in-process"

func addInProcessFlag(flags *pflag.FlagSet, names *[]string) {
	flags.StringSliceVar(names, inProcessFlag, nil,
		"Built-in plugins to run within the kernel's process, for machines with little memory: any of "+strings.Join(inProcessNames(), ", "))
}

// inProcessNames are the plugins that can.
func inProcessNames() []string {
	var names []string
	for _, p := range builtins {
		if p.InProcess {
			names = append(names, p.Name)
		}
	}
	return names
}

// inProcess says of each built-in plugin whether it runs within the kernel's process, and
// how.
func inProcess(names []string) (func(name string) (pluginhost.Embedded, bool), error) {
	for _, name := range names {
		p, ok := builtin(name)
		can := strings.Join(inProcessNames(), ", ")
		switch {
		case !ok:
			return nil, fmt.Errorf("--%s %q: there is no such built-in plugin: must be any of %s", inProcessFlag, name, can)
		case !p.InProcess:
			return nil, fmt.Errorf("--%s %q: it starts programs or works in other namespaces, which takes a process of its own: must be any of %s",
				inProcessFlag, name, can)
		}
	}
	return func(name string) (pluginhost.Embedded, bool) {
		p, ok := builtin(name)
		if !ok || !slices.Contains(names, name) {
			return nil, false
		}
		p.Version = version.Build()
		return func(ctx context.Context, listener net.Listener, handover *os.File, output io.Writer) error {
			return kit.Embed(ctx, p, listener, handover, output)
		}, true
	}, nil
}
