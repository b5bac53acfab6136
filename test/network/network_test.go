package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nstest"
	"keelson.dev/keelson/plugins/network"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	"keelson.dev/keelson/proto/network/v1/networktest"
	"keelson.dev/keelson/test/harness"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const (
	nodeName = "node-1"
	nodeIP   = "192.0.2.10"
)

// TestRootNetworkBinary: the binary's network plugin fulfils its contract, with the rights
// that it declares, on IPv4 and on dual stack.
func TestRootNetworkBinary(t *testing.T) {
	nstest.Require(t)
	binary := keelson(t)
	for name, cidrs := range map[string][]string{
		"IPv4":      {"10.244.3.0/24"},
		"DualStack": {"10.244.3.0/24", "fd00:10:244:3::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			server := harness.Start(t)
			server.Grant(t, "network", network.Plugin.Rules)
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs}}
			if _, err := server.Admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			networktest.Run(t, networktest.Options{
				New: func(t *testing.T) networkv1.NetworkServiceClient { return launch(t, server, binary) },
				Netns: func(t *testing.T) (string, func()) {
					path := nstest.New(t)
					return path, func() { nstest.Remove(path) }
				},
			})
		})
	}
}

// launch runs the plugin until the test ends, when what it did to the machine is removed.
func launch(t *testing.T, server *harness.Server, binary string) networkv1.NetworkServiceClient {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kn") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	data, run, log := filepath.Join(dir, "d"), filepath.Join(dir, "r"), harness.Logger(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	h := pluginhost.New(pluginhost.Config{
		Log: log, DataDir: data, RunDir: run, Credentials: harness.Issuer{Authority: server.PKI},
		APIServer: "https://" + server.Addr(), APICA: server.PKI.CAPEM(),
		Cluster: pluginhost.Cluster{PodCIDRs: []string{"10.244.0.0/16", "fd00:10:244::/48"}, ServiceCIDRs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DNSAddress: "10.96.0.10"},
		Node:    pluginhost.Node{Name: nodeName, Addresses: []netip.Addr{netip.MustParseAddr(nodeIP)}, KubeletPort: 10250},
		BuiltIn: func(name string) (pluginhost.Command, bool) {
			return pluginhost.Command{Path: binary, Args: []string{"plugin-run", name}}, true
		},
		CgroupParent: "/keelson-test-" + filepath.Base(dir),
	})
	if err := h.Ensure(pluginhost.Spec{Name: "network", Kind: "network", BuiltIn: true, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }() // ends by the clean-up
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the plugin host: %v", err)
		}
		if err := network.Purge(context.Background(), filepath.Join(data, "plugins", "network"), "", log); err != nil {
			t.Errorf("purge: %v", err)
		}
		_ = os.RemoveAll(dir)
	})
	conn, err := kit.DialSocket(filepath.Join(run, "network.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := networkv1.NewNetworkServiceClient(conn)
	harness.Eventually(t, "the network is ready", func() string {
		got, err := client.Status(t.Context(), &networkv1.StatusRequest{}, grpc.WaitForReady(true))
		switch {
		case err != nil:
			return err.Error()
		case !got.GetReady():
			s, _ := h.Status("network")
			return fmt.Sprintf("%s; the host says %s %s", got.GetMessage(), s.Phase, s.LastError)
		}
		return ""
	})
	return client
}

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
