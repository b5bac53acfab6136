package plugins

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// keelson is the binary: KEELSON_BIN, or built here, once.
var keelson = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("KEELSON_BIN"); path != "" {
		return path, nil
	}
	return build("keelson", "../../cli")
})

// builtInNames are the folders below plugins/.
func builtInNames(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("../../plugins")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "kit" {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("there are no built-in plugins: the test looks in the wrong place")
	}
	return names
}

// TestBuiltIns passes each built-in plugin's process through the part of the contract's
// suite that leaves the machine alone, and looks at what it says of itself.
func TestBuiltIns(t *testing.T) {
	binary, err := keelson()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range builtInNames(t) {
		t.Run(name, func(t *testing.T) {
			start := func(t *testing.T) plugintest.Subject {
				return launch(t, creds, name, exec.Command(binary, "plugin-run", name))
			}
			t.Run("Description", func(t *testing.T) { checkDescription(t, start(t).Client, name) })
			plugintest.Run(t, plugintest.Options{
				New:       start,
				Configure: func(t *testing.T) *pluginv1.ConfigureRequest { return fullRequest(t, creds, name) },
				Passive:   true,
			})
		})
	}
}

// required are the configurations of built-in plugins that cannot do without.
var required = map[string]string{"exec": `{"command":"/bin/true"}`}

// fullRequest has all that the kernel tells a plugin, of an API server that is not there.
func fullRequest(t *testing.T, creds issuer, name string) *pluginv1.ConfigureRequest {
	t.Helper()
	client, err := creds.Client(name, "")
	if err != nil {
		t.Fatal(err)
	}
	run := shortDir(t)
	pair := &pluginv1.KeyPair{Certificate: client.Certificate, PrivateKey: client.PrivateKey}
	return &pluginv1.ConfigureRequest{
		Config:  []byte(required[name]),
		Api:     &pluginv1.API{Server: "https://127.0.0.1:1", Ca: creds.Authority.CAPEM(), Client: pair},
		Cluster: &pluginv1.Cluster{PodCidrs: []string{"10.244.0.0/16"}, ServiceCidrs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DnsAddress: "10.96.0.10"},
		Node:    &pluginv1.Node{Name: "node-1", Addresses: []string{"192.0.2.1"}, KubeletPort: 10250},
		DataDir: t.TempDir(), RunDir: run, Listen: filepath.Join(run, "listen.sock"), Serving: pair,
		Endpoints: map[string]string{"network": filepath.Join(run, "n.sock"), "runtime": filepath.Join(run, "r.sock")},
	}
}

// checkDescription holds what the suite cannot: the name of the folder, the schema that
// refuses unknown fields, and rules that give no more than needed.
func checkDescription(t *testing.T, client pluginv1.PluginServiceClient, name string) {
	t.Helper()
	d, err := client.Describe(t.Context(), &pluginv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if d.GetName() != name {
		t.Errorf("name: got %q, want the folder's, %q", d.GetName(), name)
	}
	if schema := d.GetConfigSchema(); schema != "" {
		var s struct {
			Type                 string
			AdditionalProperties *bool
		}
		if err := json.Unmarshal([]byte(schema), &s); err != nil || s.Type != "object" {
			t.Errorf("schema: got %s, %v, want one of an object", schema, err)
		}
		if s.AdditionalProperties == nil || *s.AdditionalProperties {
			t.Error("schema: additionalProperties is not false, so a misspelt field would pass it")
		}
	}
	for _, rule := range d.GetRules() {
		everything := slices.Contains(rule.GetApiGroups(), "*") && slices.Contains(rule.GetResources(), "*")
		if everything && !slices.Equal(rule.GetVerbs(), []string{"get", "list", "watch"}) && name != "controllers" {
			t.Errorf("rule %v is for everything", rule)
		}
	}
	for _, kind := range d.GetRequires() {
		if kind != "runtime" && kind != "network" && kind != "storage" {
			t.Errorf("requires %q, which has no socket", kind)
		}
	}
}
