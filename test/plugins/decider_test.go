package plugins

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/plugins/kit"
)

// deciderMain is a plugin of a kind that decides: it tells what the files in its folder
// say. kind is another one than scheduler, if it is not empty.
func deciderMain(name, kind string) {
	if kind == "" {
		kind = "scheduler"
	}
	kit.Main(kit.Plugin{
		Name: name, Kind: kind, Version: "1", Description: "Decides as told.", Scope: kit.ScopeCluster,
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "list", "create", "deletecollection"}, APIGroups: []string{""}, Resources: []string{"pods"}},
			{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}},
			{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"nodes"}},
			{Verbs: []string{"get", "post"}, NonResourceURLs: []string{"/version"}},
		},
		ConfigSchema: `{"type":"object","additionalProperties":false,"properties":{"mode":{"type":"string"},"mark":{"type":"string"}}}`,
		New: func(env *kit.Env) (kit.Runner, error) {
			var c swapConfig
			if err := env.Decode(&c); err != nil {
				return nil, err
			}
			if c.Mode == "blind" {
				return kit.RunnerFunc(func(ctx context.Context) error { env.Health.SetReady(); <-ctx.Done(); return nil }), nil
			}
			return &decider{env, c}, nil
		},
	})
}

// decider is what it runs.
type decider struct {
	env *kit.Env
	swapConfig
}

// decidePrefix begins the names of the files that say what to decide: decide.KEY.
const decidePrefix = "decide."

// Start implements kit.Runner.
func (d *decider) Start(ctx context.Context) error {
	d.env.Health.SetReady()
	told := map[string]string{}
	for {
		entries, err := os.ReadDir(d.env.DataDir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			key, ok := strings.CutPrefix(e.Name(), decidePrefix)
			if !ok {
				continue
			}
			text, err := os.ReadFile(filepath.Join(d.env.DataDir, e.Name()))
			if err != nil {
				return err
			}
			if value := string(text); told[key] != value && d.env.Decisions.Followed() {
				told[key] = value
				d.env.Decisions.Tell(kit.Decision{Key: key, Subject: "default/" + key, Value: value, Reason: d.Mark})
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Shadow implements kit.Shadower.
func (d *decider) Shadow(ctx context.Context) error {
	switch d.Mode {
	case "dies":
		return errors.New("the shadow of a doubt")
	case "half":
		d.env.Health.SetDegraded("one eye is shut")
		<-ctx.Done()
		return nil
	}
	return d.Start(ctx)
}

var _ kit.Shadower = (*decider)(nil)
