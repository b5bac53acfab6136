package main

import (
	"strings"
	"testing"

	"google.golang.org/grpc"

	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nstest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
	"keelson.dev/keelson/proto/storage/v1/storagetest"
)

// TestMain runs the tests, as root, in mount and network namespaces of their own: nothing
// that they mount is left on the machine.
func TestMain(m *testing.M) { nstest.Main(m) }

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

// TestRootKind passes it through the suite of its kind. To mount takes root.
func TestRootKind(t *testing.T) {
	nstest.Require(t)
	storagetest.Run(t, storagetest.Options{
		New: func(t *testing.T) *grpc.ClientConn {
			env := kittest.NewEnv(t, plugin)
			subject, err := newDriver(env)
			if err != nil {
				t.Fatal(err)
			}
			kittest.Run(t, subject)
			return kittest.Dial(t, env.Listen)
		},
		Dir: func(t *testing.T) string { return t.TempDir() },
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"dir":"/srv/volumes"}`, ""},
		{`{"dir":"volumes"}`, "dir: Invalid value"},
		{`{"dir":"/srv/../etc"}`, "dir: Invalid value"},
		{`{"folder":"/srv"}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newDriver(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}
