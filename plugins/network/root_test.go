package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	"keelson.dev/keelson/plugins/kit/nft"
	"keelson.dev/keelson/plugins/kit/nstest"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	"keelson.dev/keelson/proto/network/v1/networktest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const nodeIP = "192.0.2.10"

func node(name, ip string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
	return n
}

// plugin is a running network plugin.
type plugin struct {
	*Server
	client *fake.Clientset
	conn   networkv1.NetworkServiceClient
	env    *kit.Env
	stop   func()
}

// start runs the plugin in this process' namespace; data outlives it.
func start(t testing.TB, dataDir string, cfg Config, nodes ...*corev1.Node) *plugin {
	t.Helper()
	env := kittest.NewEnv(t, Plugin)
	env.DataDir = dataDir
	env.Node.Addresses = []netip.Addr{netip.MustParseAddr(nodeIP)}
	client := kittest.Clientset()
	for _, n := range nodes {
		if _, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cfg.SetDefaults()
	s := newServer(env, cfg, client)
	p := &plugin{Server: s, client: client, env: env, stop: kittest.Run(t, s)}
	conn, err := kit.DialSocket(env.Listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.conn = networkv1.NewNetworkServiceClient(conn)
	return p
}

func (p *plugin) waitReady(t testing.TB) {
	t.Helper()
	kittest.Eventually(t, "network is ready", func() error {
		got, err := p.conn.Status(t.Context(), &networkv1.StatusRequest{}, grpc.WaitForReady(true))
		if err == nil && !got.GetReady() {
			err = fmt.Errorf("not ready: %s", got.GetMessage())
		}
		return err
	})
}

// purge leaves the node as it was.
func purge(t testing.TB, dataDir string) {
	t.Cleanup(func() {
		if err := Purge(context.Background(), dataDir, "", kittest.Logger(t)); err != nil {
			t.Errorf("Purge: %v", err)
		}
	})
}

func fresh(t testing.TB, cfg Config, cidrs ...string) *plugin {
	t.Helper()
	nstest.Require(t)
	dir := t.TempDir()
	purge(t, dir)
	p := start(t, dir, cfg, node("test-node", nodeIP, cidrs...))
	p.waitReady(t)
	return p
}

func (p *plugin) pod(t testing.TB, id string, ports ...*networkv1.PortMapping) (netns, addr string) {
	t.Helper()
	netns = nstest.New(t)
	resp, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: id, Netns: netns, PodNamespace: "default", PodName: id, PortMappings: ports})
	if err != nil {
		t.Fatalf("Setup %s: %v", id, err)
	}
	return netns, resp.GetAddresses()[0]
}

func want(t testing.TB, netns, network, target, answer string) {
	t.Helper()
	got, err := nstest.Ask(t, netns, network, target)
	if err != nil || got != answer {
		t.Errorf("%s to %s %s: got %q, %v; want %q", netns, network, target, got, err, answer)
	}
}

func TestRootContract(t *testing.T) {
	nstest.Require(t)
	for name, cidrs := range map[string][]string{
		"IPv4":      {"10.244.3.0/24"},
		"DualStack": {"10.244.3.0/24", "fd00:10:244:3::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			networktest.Run(t, networktest.Options{
				New: func(t *testing.T) networkv1.NetworkServiceClient { return fresh(t, Config{}, cidrs...).conn },
				Netns: func(t *testing.T) (string, func()) {
					path := nstest.New(t)
					return path, func() { nstest.Remove(path) }
				},
			})
		})
	}
}

func TestRootNotReadyWithoutRange(t *testing.T) {
	nstest.Require(t)
	dir := t.TempDir()
	purge(t, dir)
	p := start(t, dir, Config{}, node("test-node", nodeIP))
	kittest.Eventually(t, "server is up", func() error { _, err := p.conn.Status(t.Context(), &networkv1.StatusRequest{}); return err })
	_, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "a", Netns: nstest.New(t)})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "test-node") {
		t.Errorf("Setup: got %v, want code Unavailable that names the node", err)
	}
	if _, err := p.client.CoreV1().Nodes().Update(t.Context(), node("test-node", nodeIP, "10.244.9.0/24"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.waitReady(t)
	if _, addr := p.pod(t, "a"); addr != "10.244.9.2" {
		t.Errorf("first address: got %s, want 10.244.9.2", addr)
	}
}

func TestRootTraffic(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			nstest.Require(t)
			_ = writeSysctl("bridge/bridge-nf-call-iptables", bridgeNF)
			outside := nstest.Uplink(t, "up0", nodeIP+"/24", "192.0.2.1")
			p := fresh(t, Config{}, "10.244.3.0/24", "fd00:10:244:3::/64")
			a, addrA := p.pod(t, "a")
			b, addrB := p.pod(t, "b",
				&networkv1.PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: 8080},
				&networkv1.PortMapping{Protocol: "UDP", ContainerPort: 80, HostPort: 8080},
				&networkv1.PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: 8081, HostIp: nodeIP})
			nstest.Echo(t, b, "b", 80)
			nstest.Echo(t, outside, "outside", 80)
			want(t, a, "tcp", addrB+":80", "b "+addrA)
			want(t, a, "udp", addrB+":80", "b "+addrA)
			want(t, a, "tcp", "[fd00:10:244:3::3]:80", "b fd00:10:244:3::2")
			want(t, "", "tcp", addrB+":80", "b 10.244.3.1")
			want(t, a, "tcp", "192.0.2.1:80", "outside "+nodeIP) // masqueraded
			for _, port := range []string{"8080", "8081"} {
				want(t, outside, "tcp", nodeIP+":"+port, "b 192.0.2.1")
				want(t, a, "tcp", nodeIP+":"+port, "b "+addrA)
				want(t, "", "tcp", nodeIP+":"+port, "b "+nodeIP)
				want(t, b, "tcp", nodeIP+":"+port, "b 10.244.3.1") // hairpin
			}
			want(t, outside, "udp", nodeIP+":8080", "b 192.0.2.1")
			_, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "c", Netns: nstest.New(t),
				PortMappings: []*networkv1.PortMapping{{Protocol: "TCP", ContainerPort: 81, HostPort: 8080}}})
			if status.Code(err) != codes.AlreadyExists {
				t.Errorf("Setup with a host port that is taken: got %v, want code AlreadyExists", err)
			}
			if _, err := p.conn.Teardown(t.Context(), &networkv1.TeardownRequest{SandboxId: "b", Netns: b}); err != nil {
				t.Fatal(err)
			}
			if got, err := nstest.Ask(t, outside, "tcp", nodeIP+":8080"); err == nil {
				t.Errorf("host port after Teardown: got %q, want an error", got)
			}
		})
	}
}

// A new process finds pods, addresses and host ports as the old one left them.
func TestRootRestart(t *testing.T) {
	nstest.Require(t)
	outside := nstest.Uplink(t, "up0", nodeIP+"/24", "192.0.2.1")
	dir := t.TempDir()
	purge(t, dir)
	n := node("test-node", nodeIP, "10.244.3.0/24")
	p := start(t, dir, Config{}, n)
	p.waitReady(t)
	a, addrA := p.pod(t, "a", &networkv1.PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: 8080})
	gone, addrGone := p.pod(t, "gone")
	nstest.Echo(t, a, "a", 80)
	p.stop()
	want(t, outside, "tcp", nodeIP+":8080", "a 192.0.2.1")
	nstest.Remove(gone)
	if err := os.WriteFile(filepath.Join(dir, sandboxesDir, "cut.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	p = start(t, dir, Config{}) // no Node object: the API server is away
	p.waitReady(t)
	want(t, outside, "tcp", nodeIP+":8080", "a 192.0.2.1")
	again, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "a", Netns: a, PodNamespace: "default", PodName: "a",
		PortMappings: []*networkv1.PortMapping{{Protocol: "TCP", ContainerPort: 80, HostPort: 8080}}})
	if err != nil || again.GetAddresses()[0] != addrA {
		t.Errorf("Setup after restart: got %v, %v; want %s", again, err, addrA)
	}
	kittest.Eventually(t, "address of the sandbox that vanished is free", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if owner := p.pools[0].used[netip.MustParseAddr(addrGone)]; owner != "" {
			return fmt.Errorf("belongs to %s", owner)
		}
		return nil
	})
	if _, other := p.pod(t, "b"); other == addrA {
		t.Errorf("a new pod got %s, which is in use", other)
	}
	want(t, outside, "tcp", nodeIP+":8080", "a 192.0.2.1")
}

// Setup repeated repairs what someone broke.
func TestRootRepair(t *testing.T) {
	p := fresh(t, Config{}, "10.244.3.0/24")
	a, addr := p.pod(t, "a")
	nstest.Echo(t, a, "a", 80)
	for name, breakIt := range map[string]func() error{
		"link deleted":   func() error { return deleteLink(p.host, linkName("a")) },
		"bridge deleted": func() error { return deleteLink(p.host, bridgeName) },
		"address deleted": func() error {
			return nstest.In(t, a, func() error {
				link, err := netlink.LinkByName(podLink)
				if err != nil {
					return err
				}
				return netlink.AddrDel(link, address(netip.PrefixFrom(netip.MustParseAddr(addr), 32)))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := breakIt(); err != nil {
				t.Fatal(err)
			}
			if _, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "a", Netns: a, PodNamespace: "default", PodName: "a"}); err != nil {
				t.Fatalf("Setup: %v", err)
			}
			want(t, "", "tcp", addr+":80", "a 10.244.3.1")
		})
	}
}

func TestRootExhaustion(t *testing.T) {
	p := fresh(t, Config{}, "10.244.3.0/29") // .2 to .6
	for i := range 5 {
		p.pod(t, fmt.Sprint("pod", i))
	}
	_, err := p.conn.Setup(t.Context(), &networkv1.SetupRequest{SandboxId: "more", Netns: nstest.New(t)})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "10.244.3.0/29") {
		t.Errorf("Setup: got %v, want code ResourceExhausted that names the range", err)
	}
	if _, err := p.conn.Teardown(t.Context(), &networkv1.TeardownRequest{SandboxId: "pod3"}); err != nil {
		t.Fatal(err)
	}
	if _, addr := p.pod(t, "more"); addr != "10.244.3.5" {
		t.Errorf("address after Teardown: got %s, want 10.244.3.5, the free one", addr)
	}
}

// Nodes on the same segment are reached directly, others through the tunnel.
func TestRootRoutes(t *testing.T) {
	nstest.Require(t)
	nstest.Uplink(t, "up0", nodeIP+"/24", "192.0.2.1")
	dir := t.TempDir()
	purge(t, dir)
	p := start(t, dir, Config{}, node("test-node", nodeIP, "10.244.3.0/24"),
		node("near", "192.0.2.11", "10.244.4.0/24"), node("far", "198.51.100.7", "10.244.5.0/24"))
	p.waitReady(t)
	route := func(dst string) string {
		got, err := p.host.RouteGet(net.ParseIP(dst))
		if err != nil {
			return err.Error()
		}
		link, err := p.host.LinkByIndex(got[0].LinkIndex)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s via %v", link.Attrs().Name, got[0].Gw)
	}
	for dst, wantRoute := range map[string]string{
		"10.244.4.9": "up0 via 192.0.2.11", "10.244.5.9": "keelson-vxlan via 10.244.5.0", "10.96.0.1": "keelson0 via <nil>",
	} {
		kittest.Eventually(t, "route to "+dst, func() error {
			if got := route(dst); got != wantRoute {
				return fmt.Errorf("got %s, want %s", got, wantRoute)
			}
			return nil
		})
	}
	if err := p.client.CoreV1().Nodes().Delete(t.Context(), "near", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	kittest.Eventually(t, "route to a deleted node is gone", func() error {
		if got := route("10.244.4.9"); got != "up0 via 192.0.2.1" {
			return fmt.Errorf("got %s", got)
		}
		return nil
	})
}

func TestRootPurgeLeavesNothing(t *testing.T) {
	nstest.Require(t)
	if err := writeSysctl("ipv4/ip_forward", "0"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, dir, Config{}, node("test-node", nodeIP, "10.244.3.0/24", "fd00:10:244:3::/64"))
	p.waitReady(t)
	p.pod(t, "a", &networkv1.PortMapping{Protocol: "TCP", ContainerPort: 80, HostPort: 8080})
	p.stop()
	for range 2 { // twice does no harm
		if err := Purge(t.Context(), dir, "", kittest.Logger(t)); err != nil {
			t.Fatalf("Purge: %v", err)
		}
	}
	links, err := netlink.LinkList()
	if err != nil || len(links) != 1 {
		t.Errorf("links after Purge: got %v, %v; want lo alone", links, err)
	}
	conn, err := nft.NewConn()
	if err != nil {
		t.Fatal(err)
	}
	if tables, err := conn.ListTables(); err != nil || len(tables) != 0 {
		t.Errorf("tables after Purge: got %v, %v; want none", tables, err)
	}
	if v, err := readSysctl("ipv4/ip_forward"); err != nil || v != "0" {
		t.Errorf("ip_forward after Purge: got %q, %v; want 0", v, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("data folder after Purge: got %v, want not there", err)
	}
}

func BenchmarkRootSetup(b *testing.B) {
	p := fresh(b, Config{}, "10.244.0.0/16")
	paths := make([]string, 0, 50)
	for range cap(paths) {
		paths = append(paths, nstest.New(b))
	}
	i := 0
	for b.Loop() {
		netns := paths[i%len(paths)]
		i++
		if _, err := p.conn.Setup(b.Context(), &networkv1.SetupRequest{SandboxId: netns, Netns: netns}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := p.conn.Teardown(b.Context(), &networkv1.TeardownRequest{SandboxId: netns}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
