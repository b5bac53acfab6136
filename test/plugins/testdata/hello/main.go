// Command hello is a plugin as a stranger would write it: it imports plugins/kit and
// nothing else of Keelson. It writes a greeting to its data folder.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
)

// Config is hello's configuration.
type Config struct {
	// Greeting is what it writes; "Hello" by default, and never empty.
	Greeting *string `json:"greeting,omitempty"`
}

func main() {
	kit.Main(kit.Plugin{
		Name: "hello", Kind: "example", Version: "1.2.3", Description: "Writes a greeting.", Scope: kit.ScopeNode,
		ConfigSchema: `{"type":"object","properties":{"greeting":{"type":"string"}},"additionalProperties":false}`,
		New:          newHello,
	})
}

func newHello(env *kit.Env) (kit.Runner, error) {
	greeting := "Hello"
	cfg := Config{Greeting: &greeting}
	if err := env.Decode(&cfg); err != nil {
		return nil, err
	}
	if *cfg.Greeting == "" {
		return nil, kit.FieldErrors(field.ErrorList{field.Required(field.NewPath("greeting"), "say something")})
	}
	return kit.RunnerFunc(func(ctx context.Context) error {
		line := fmt.Sprintf("%s, %s\n", *cfg.Greeting, env.Node.Name)
		if err := os.WriteFile(filepath.Join(env.DataDir, "greeting"), []byte(line), 0o600); err != nil {
			return fmt.Errorf("greet: %w", err)
		}
		env.Log.Info("Greeted", "node", env.Node.Name)
		env.Health.SetReady()
		<-ctx.Done()
		return nil
	}), nil
}
