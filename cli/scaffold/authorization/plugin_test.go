package main

import (
	"os"
	"strings"
	"testing"

	"keelson.dev/keelson/plugins/kit/kittest"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/authorization/v1/authorizationtest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// TestContract passes the plugin through the suite that every plugin passes.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, plugin)
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			dir := t.TempDir()
			return &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: dir, Listen: dir + "/listen.sock"}
		},
		Ready: true,
	})
}

// TestKind passes it through the suite of its kind, with the examples of examples.yaml.
func TestKind(t *testing.T) {
	text, err := os.ReadFile("examples.yaml")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := authorizationtest.ReadExamples(text)
	if err != nil {
		t.Fatal(err)
	}
	authorizationtest.Run(t, authorizationtest.Options{
		New: func(t *testing.T) authorizationv1.AuthorizationServiceClient {
			env := kittest.NewEnv(t, plugin)
			env.Config = kittest.YAML(t, "config.yaml")
			subject, err := newAuthorizer(env)
			if err != nil {
				t.Fatal(err)
			}
			kittest.Run(t, subject)
			return authorizationv1.NewAuthorizationServiceClient(kittest.Dial(t, env.Listen))
		},
		Examples: examples,
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"readers":["jane"],"blocked":["joe"]}`, ""},
		{`{"readers":["jane"],"blocked":["jane"]}`, `blocked[0]: Invalid value: "jane"`},
		{`{"reader":[]}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newAuthorizer(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}
