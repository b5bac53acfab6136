package main

import (
	"os"
	"strings"
	"testing"

	"keelson.dev/keelson/plugins/kit/kittest"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	"keelson.dev/keelson/proto/authentication/v1/authenticationtest"
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
	examples, err := authenticationtest.ReadExamples(text)
	if err != nil {
		t.Fatal(err)
	}
	authenticationtest.Run(t, authenticationtest.Options{
		New: func(t *testing.T) authenticationv1.AuthenticationServiceClient {
			env := kittest.NewEnv(t, plugin)
			env.Config = kittest.YAML(t, "config.yaml")
			subject, err := newAuthenticator(env)
			if err != nil {
				t.Fatal(err)
			}
			kittest.Run(t, subject)
			return authenticationv1.NewAuthenticationServiceClient(kittest.Dial(t, env.Listen))
		},
		Examples: examples,
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"tokens":{"tick":{"user":"jane"}}}`, ""},
		{`{"tokens":{"tick":{"user":""}}}`, "tokens: Invalid value"},
		{`{"tokens":{"tick":{"user":"jane","groups":["system:masters"]}}}`, `tokens: Invalid value: "system:masters"`},
		{`{"token":{}}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newAuthenticator(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}
