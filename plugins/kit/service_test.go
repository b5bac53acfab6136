package kit_test

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// config is the configuration of the plugin under test.
type config struct {
	Mode string `json:"mode"`
}

// newPlugin is a plugin whose behaviour its configuration chooses.
func newPlugin() kit.Plugin {
	return kit.Plugin{
		Name: "tester", Kind: "test", Description: "Does nothing in several ways.",
		ConfigSchema: `{"type":"object","properties":{"mode":{"type":"string"}},"additionalProperties":false}`,
		New: func(env *kit.Env) (kit.Runner, error) {
			var c config
			if err := env.Decode(&c); err != nil {
				return nil, err
			}
			switch c.Mode {
			case "invalid":
				return nil, field.ErrorList{field.Invalid(field.NewPath("mode"), c.Mode, "no such mode")}.ToAggregate()
			case "panic-new":
				panic("in New")
			case "not-here":
				return nil, errors.New("the kernel has no such feature")
			}
			return kit.RunnerFunc(func(ctx context.Context) error {
				switch c.Mode {
				case "error":
					return errors.New("no luck")
				case "return":
					return nil
				case "panic":
					panic("in Start")
				case "degraded":
					env.Health.SetDegraded("half of it")
				default:
					env.Health.SetReady()
				}
				<-ctx.Done()
				return ctx.Err()
			}), nil
		},
	}
}

func request(t *testing.T, mode string) *pluginv1.ConfigureRequest {
	t.Helper()
	r := &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: t.TempDir()}
	if mode != "" {
		r.Config = []byte(`{"mode":"` + mode + `"}`)
	}
	return r
}

// TestContract passes the kit's service through the suite of the contract.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, newPlugin())
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest { return request(t, "") },
		Ready:     true,
	})
}
