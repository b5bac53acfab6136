package plugins

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/plugins/dns"
	execplugin "keelson.dev/keelson/plugins/exec"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kubelet"
	"keelson.dev/keelson/plugins/network"
	"keelson.dev/keelson/plugins/proxy"
	"keelson.dev/keelson/plugins/runtime"
	"keelson.dev/keelson/plugins/scheduler"
	"keelson.dev/keelson/plugins/sim"
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

// allBuiltIns are the built-in plugins as cli has them.
var allBuiltIns = []kit.Plugin{
	controllers.Plugin, dns.Plugin, execplugin.Plugin, kubelet.Plugin, network.Plugin, proxy.Plugin, runtime.Plugin, scheduler.Plugin, sim.Plugin,
}

// TestBuiltInsInMemory passes each built-in plugin through the same part of the suite in
// memory, and those that can run within the kernel's process also as they run there.
func TestBuiltInsInMemory(t *testing.T) {
	creds, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(allBuiltIns), len(builtInNames(t)); got != want {
		t.Fatalf("%d built-in plugins are tested, there are %d", got, want)
	}
	for _, p := range allBuiltIns {
		forms := map[string]func(t *testing.T) plugintest.Subject{
			"memory": func(t *testing.T) plugintest.Subject {
				client, exited := kittest.Client(t, p)
				return plugintest.Subject{Client: client, Exited: exited}
			},
		}
		if p.InProcess {
			forms["embedded"] = func(t *testing.T) plugintest.Subject { return embed(t, p) }
		}
		for form, start := range forms {
			t.Run(p.Name+"/"+form, func(t *testing.T) {
				t.Parallel()
				plugintest.Run(t, plugintest.Options{
					New:       start,
					Configure: func(t *testing.T) *pluginv1.ConfigureRequest { return fullRequest(t, creds, p.Name) },
					Passive:   true,
				})
			})
		}
	}
}

// embed runs a plugin as the kernel does within its process.
func embed(t testing.TB, p kit.Plugin) plugintest.Subject {
	t.Helper()
	listener := bufconn.Listen(4 << 10)
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	exited, ended := make(chan int, 1), make(chan struct{})
	go func() { // ends with the plugin, by the cleanup at the latest
		defer close(ended)
		code := 0
		if err := kit.Embed(ctx, p, listener, nil, io.Discard); err != nil {
			code = 1
		}
		exited <- code
	}()
	t.Cleanup(func() { cancel(); <-ended; _ = conn.Close() })
	return plugintest.Subject{Client: pluginv1.NewPluginServiceClient(conn), Exited: exited}
}

// TestEmbeddedContract passes a plugin within this process through the whole suite.
func TestEmbeddedContract(t *testing.T) {
	creds, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	plugintest.Run(t, plugintest.Options{
		New:       func(t *testing.T) plugintest.Subject { return embed(t, builtIn("worker")) },
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest { return fullRequest(t, creds, "worker") },
		Ready:     true,
	})
}

// thrower panics in a call of the contract.
type thrower struct{ *worker }

// Drain implements kit.Drainer.
func (thrower) Drain(context.Context) error { panic("in a call") }

// TestEmbeddedPanic: a panic in a call ends the plugin, and nothing else.
func TestEmbeddedPanic(t *testing.T) {
	creds, err := newCredentials(shortDir(t))
	if err != nil {
		t.Fatal(err)
	}
	p := builtIn("worker")
	p.New = func(env *kit.Env) (kit.Runner, error) { return thrower{&worker{env: env}}, nil }
	s := embed(t, p)
	if _, err := s.Client.Configure(t.Context(), fullRequest(t, creds, "worker")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	// The answer may be lost, as the connection ends with the plugin.
	if _, err := s.Client.Drain(t.Context(), &pluginv1.DrainRequest{}); err == nil {
		t.Error("Drain: got nil, want an error")
	}
	if code := <-s.Exited; code != 1 {
		t.Errorf("the plugin ended with %d, want 1", code)
	}
}
