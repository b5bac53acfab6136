// Package examples has a small plugin of each kind that others call, as a stranger would
// write them: they import plugins/kit, the contracts and nothing else of Keelson.
// cmd is the program that they are when they are built.
package examples

import (
	"context"

	"google.golang.org/grpc"

	"keelson.dev/keelson/plugins/kit"
)

// Plugin is the example of a kind under a name of the caller's choice; false: there is none.
func Plugin(kind, name string) (kit.Plugin, bool) {
	for _, p := range []kit.Plugin{admission, authentication, authorization, storage} {
		if p.Kind == kind {
			p.Name, p.Version = name, "1.0.0"
			return p, true
		}
	}
	return kit.Plugin{}, false
}

// serve is the runner of a plugin that does nothing but answer.
func serve(env *kit.Env, register func(*grpc.Server)) (kit.Runner, error) {
	return kit.RunnerFunc(func(ctx context.Context) error {
		env.Health.SetReady()
		return env.ServeGRPC(ctx, register)
	}), nil
}
