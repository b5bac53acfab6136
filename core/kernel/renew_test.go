package kernel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// elevenMonths is after the time of renewal and before the end of a certificate.
const elevenMonths = 335 * 24 * time.Hour

// movable is a clock that was behind by eleven months and is set right.
type movable struct {
	behind atomic.Int64
	ticks  chan time.Time
}

func newMovable() *movable {
	m := &movable{ticks: make(chan time.Time)}
	m.behind.Store(int64(elevenMonths))
	return m
}

func (m *movable) now() time.Time { return time.Now().Add(-time.Duration(m.behind.Load())) }

func (m *movable) timeline() timeline { return timeline{now: m.now, ticks: m.ticks} }

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("still not so: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// runs runs f until the end of the test.
func runs(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String())
}

// shortTemp is a folder whose sockets have short paths.
func shortTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kk") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func endOf(t *testing.T, certificate []byte) time.Time {
	t.Helper()
	block, _ := pem.Decode(certificate)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.NotAfter
}

// TestRenewal: certificates that were issued eleven months ago are replaced while server
// and agent run, in files and in what is shown.
func TestRenewal(t *testing.T) {
	dir := shortTemp(t)
	server, agent := newMovable(), newMovable()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	builtins := []Builtin{{Name: "kubelet", Kind: kubeletKind, Scope: v1alpha1.PluginScopeNode}, {Name: "proxy", Kind: "proxy", Scope: v1alpha1.PluginScopeNode}}
	command := func(string) (string, []string) { return "/bin/sleep", []string{"600"} } // no plugin: it is not what is tested
	listen := freePort(t)
	data := filepath.Join(dir, "s")
	cfg := Config{
		DataDir: data, RunDir: filepath.Join(dir, "sr"), Listen: listen, Domain: "cluster.local",
		Node:     Node{Name: "server", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		NodePorts: PortRange{30000, 32767}, DNSAddress: netip.MustParseAddr("10.96.0.10"), Builtins: builtins, Command: command,
		Log: log, API: apiserver.NewOptions(), time: server.timeline(),
	}
	runs(t, func(ctx context.Context) error { return RunServer(ctx, cfg) })
	admin := filepath.Join(data, AdminKubeconfig)
	until(t, "the cluster is there", func() bool { _, err := os.Stat(filepath.Join(data, ClusterFile)); return err == nil })
	adminPair := func() []byte {
		c, err := clientcmd.BuildConfigFromFlags("", admin)
		if err != nil {
			t.Fatal(err)
		}
		return c.CertData
	}
	ca, err := os.ReadFile(filepath.Join(data, "pki/ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	ends := func() map[string]time.Time {
		conn, err := tls.Dial("tcp", listen.String(), &tls.Config{RootCAs: roots, ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		proxy, err := os.ReadFile(filepath.Join(data, "pki/front-proxy-client.crt"))
		if err != nil {
			t.Fatal(err)
		}
		return map[string]time.Time{
			"serving": conn.ConnectionState().PeerCertificates[0].NotAfter, "admin": endOf(t, adminPair()), "front proxy": endOf(t, proxy),
		}
	}
	soon := time.Now().Add(elevenMonths)
	for name, end := range ends() {
		if end.After(soon) {
			t.Errorf("%s: ends on %s before the renewal: the test begins with what is new", name, end)
		}
	}

	config, err := clientcmd.BuildConfigFromFlags("", admin)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}
	if node, err = client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	join := filepath.Join(dir, "worker.join")
	worker := Node{Name: "worker", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
	if err := createJoinFile(data, worker, builtins, join, pki.WithClock(agent.now)); err != nil {
		t.Fatal(err)
	}
	runs(t, func(ctx context.Context) error {
		return RunAgent(ctx, AgentConfig{JoinFile: join, DataDir: filepath.Join(dir, "a"), RunDir: filepath.Join(dir, "ar"), Builtins: builtins,
			Command: command, Log: log, time: agent.timeline()})
	})

	server.behind.Store(0)
	server.ticks <- time.Now()
	until(t, "the server's certificates are new", func() bool {
		for _, end := range ends() {
			if !end.After(soon) {
				return false
			}
		}
		return true
	})
	agent.behind.Store(0)
	agent.ticks <- time.Now()
	var kept certificates
	until(t, "the agent's certificates are new", func() bool {
		data, err := os.ReadFile(filepath.Join(dir, "a", IdentityFile))
		return err == nil && json.Unmarshal(data, &kept) == nil
	})
	for name, pair := range map[string]pluginhost.KeyPair{"agent": kept.Agent, "client": kept.Clients["proxy"], "serving": kept.Serving["kubelet"]} {
		if leaf := leafOf(pair); leaf == nil || !leaf.NotAfter.After(soon) {
			t.Errorf("%s of the agent: got %+v, want one that is good for a year", name, leaf)
		}
	}
	// What the agent is given at its next start is the new one, and the API knows it.
	was, err := readJoinFile(join)
	if err != nil {
		t.Fatal(err)
	}
	again, err := openIdentity(was, nil, filepath.Join(dir, "a", IdentityFile), agent.now, log)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := again.Client("kubelet", kubeletKind); string(got.Certificate) != string(kept.Agent.Certificate) {
		t.Error("the next start takes the old certificates")
	}
	config.TLSClientConfig.CertData, config.TLSClientConfig.KeyData = kept.Agent.Certificate, kept.Agent.PrivateKey
	if client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "worker", metav1.GetOptions{}); err != nil {
		t.Errorf("the node with its new certificate: %v", err)
	}
}
