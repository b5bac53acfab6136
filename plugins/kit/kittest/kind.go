package kittest

import (
	"encoding/json"
	"os"
	"testing"

	"google.golang.org/grpc"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/plugins/kit"
)

// Dial is a client of the plugin that serves at a socket, for the suite of its kind. Calls
// wait until it does.
func Dial(t testing.TB, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := kit.DialSocket(socket, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// YAML is a configuration from a file of YAML.
func YAML(t testing.TB, path string) json.RawMessage {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		text, err = yaml.YAMLToJSONStrict(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}
