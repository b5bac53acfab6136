package binary

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit/nstest"
	"keelson.dev/keelson/test/harness"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const (
	nodeName = "node-1"
	nodeIP   = "192.0.2.10"
)

// launched is a plugin of the binary, run by a plugin host until the test ends.
type launched struct {
	host      *pluginhost.Host
	data, run string // the host's folders
	name      string
}

// launch runs a plugin; prepare is called with the host's run folder before that. At the end
// purge removes what the plugin did to the machine.
func launch(t *testing.T, server *harness.Server, binary, name string, prepare func(run string), purge func(ctx context.Context, data, run string) error) *launched {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kb") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	l := &launched{data: filepath.Join(dir, "d"), run: filepath.Join(dir, "r"), name: name}
	if err := os.Mkdir(l.run, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if prepare != nil {
		prepare(l.run)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l.host = pluginhost.New(pluginhost.Config{
		Log: harness.Logger(t), DataDir: l.data, RunDir: l.run, Credentials: harness.Issuer{Authority: server.PKI},
		APIServer: "https://" + server.Addr(), APICA: server.PKI.CAPEM(),
		Cluster: pluginhost.Cluster{PodCIDRs: []string{"10.244.0.0/16", "fd00:10:244::/48"}, ServiceCIDRs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DNSAddress: "10.96.0.10"},
		Node:    pluginhost.Node{Name: nodeName, Addresses: []netip.Addr{netip.MustParseAddr(nodeIP)}, KubeletPort: 10250},
		BuiltIn: func(name string) (pluginhost.Command, bool) {
			return pluginhost.Command{Path: binary, Args: []string{"plugin-run", name}}, true
		},
		CgroupParent: "/keelson-test-" + filepath.Base(dir),
	})
	if err := l.host.Ensure(pluginhost.Spec{Name: name, Kind: name, BuiltIn: true, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.host.Run(ctx) }() // ends by the clean-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the plugin host: %v", err)
		}
		if err := purge(context.Background(), filepath.Join(l.data, "plugins", name), filepath.Join(l.run, "plugins", name)); err != nil {
			t.Errorf("purge: %v", err)
		}
	})
	return l
}

// socket is where the plugin's kind is served.
func (l *launched) socket() string { return filepath.Join(l.run, l.name+".sock") }

// keelson is the binary: KEELSON_BIN, or built here.
func keelson(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("KEELSON_BIN"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "keelson")
	if out, err := exec.Command("go", "build", "-o", path, "../../cli").CombinedOutput(); err != nil {
		t.Fatalf("build keelson: %v\n%s", err, out)
	}
	return path
}
