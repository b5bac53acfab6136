package kernel

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// holdEnv makes the test binary hold the lock of the run folder that it names.
const holdEnv = "KEELSON_TEST_HOLD"

func TestMain(m *testing.M) {
	dir := os.Getenv(holdEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := acquire(dir); err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("held\n")
	select {} // until it is killed
}

func TestInstanceLockEndsWithItsProcess(t *testing.T) {
	dir := t.TempDir()
	if pid, err := ServerPID(dir); pid != 0 || err != nil {
		t.Fatalf("empty folder: process %d, %v", pid, err)
	}
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdEnv+"="+dir)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if pid, err := ServerPID(dir); pid != holder.Process.Pid || err != nil {
		t.Errorf("ServerPID = %d, %v; want %d", pid, err, holder.Process.Pid)
	}
	if _, err := acquire(dir); err == nil || !strings.Contains(err.Error(), "--run-dir") || !strings.Contains(err.Error(), dir) {
		t.Errorf("second instance: %v", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if pid, err := ServerPID(dir); pid != 0 || err != nil {
		t.Errorf("after kill -9: process %d, %v", pid, err)
	}
	lock, err := acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock.release()
	if _, err := os.Stat(filepath.Join(dir, PIDFile)); !os.IsNotExist(err) {
		t.Errorf("release leaves the file: %v", err)
	}
}

func TestJoinFile(t *testing.T) {
	data := t.TempDir()
	node := Node{Name: "worker", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7")}}
	builtins := []Builtin{
		{Name: "kubelet", Kind: "kubelet", Scope: v1alpha1.PluginScopeNode},
		{Name: "scheduler", Kind: "scheduler", Scope: v1alpha1.PluginScopeCluster},
	}
	path := filepath.Join(t.TempDir(), "worker.join")
	if err := CreateJoinFile(data, node, builtins, path); err == nil || !strings.Contains(err.Error(), "keelson up") {
		t.Errorf("without a cluster: %v", err)
	}
	cfg := Config{
		DataDir: data, Listen: netip.MustParseAddrPort("0.0.0.0:6443"), Domain: "cluster.local",
		Node:         Node{Name: "server", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
		PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		DNSAddress:   netip.MustParseAddr("10.96.0.10"),
	}
	if err := writeClusterFile(cfg); err != nil {
		t.Fatal(err)
	}
	if err := CreateJoinFile(data, node, builtins, path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; it holds private keys", info.Mode(), err)
	}
	join, err := readJoinFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if join.Server != "https://192.0.2.1:6443" || join.Node.Name != "worker" || join.DNSAddress != cfg.DNSAddress {
		t.Errorf("join file: %+v", join)
	}
	credentials, err := openIdentity(join, nil, filepath.Join(t.TempDir(), IdentityFile), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if pair, err := credentials.Client("kubelet", "kubelet"); err != nil || len(pair.PrivateKey) == 0 {
		t.Errorf("identity of kubelet: %v", err)
	}
	if _, err := credentials.Client("scheduler", "scheduler"); err == nil {
		t.Error("a node was given the scheduler's identity")
	}
}

func TestReadJoinFileRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       "apiVersion: v1",
		"unknown field": `{"version":1,"sever":"https://192.0.2.1:6443"}`,
		"other version": `{"version":2}`,
		"no server":     `{"version":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.join")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readJoinFile(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("error should name %s: %v", path, err)
			}
		})
	}
	if _, err := readJoinFile("/nope.join"); err == nil || !strings.Contains(err.Error(), "--join") {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzReadJoinFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"server":"https://192.0.2.1:6443","node":{"name":"a","addresses":["192.0.2.7"]},"ca":"AAAA"}`))
	f.Add([]byte(`{"version":1,"node":{"addresses":[""]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.join")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if join, err := readJoinFile(path); err == nil && (join.Server == "" || len(join.Node.Addresses) == 0) {
			t.Errorf("accepted without server or node: %s", data)
		}
	})
}

func TestApplyStatus(t *testing.T) {
	builtins := []Builtin{{Name: "proxy", Kind: "proxy", Scope: v1alpha1.PluginScopeNode}, {Name: "scheduler", Scope: v1alpha1.PluginScopeCluster}}
	started := time.Date(2026, 11, 21, 8, 0, 0, 5e8, time.UTC)
	running := pluginhost.Status{Phase: pluginhost.PhaseRunning, PID: 42, Restarts: 1, Version: "v1", StartedAt: started}

	server := newPluginSync(slog.New(slog.DiscardHandler), "a", true, builtins)
	agent := newPluginSync(slog.New(slog.DiscardHandler), "b", false, builtins)
	p := &v1alpha1.Plugin{ObjectMeta: metav1.ObjectMeta{Name: "proxy", Generation: 3}}
	server.apply(p, running)
	agent.apply(p, pluginhost.Status{Phase: pluginhost.PhaseBackOff, LastError: "exit status 1"})
	if p.Status.Phase != v1alpha1.PluginRunning || p.Status.PID != 42 || p.Status.ObservedGeneration != 3 {
		t.Errorf("top level is the server's: %+v", p.Status)
	}
	if len(p.Status.Nodes) != 2 || p.Status.Nodes[0].Name != "a" || p.Status.Nodes[1].Phase != v1alpha1.PluginBackOff {
		t.Errorf("an entry for each node: %+v", p.Status.Nodes)
	}
	ready := p.Status.Conditions[0]
	ready.LastTransitionTime = metav1.Time{Time: started}
	p.Status.Conditions[0] = ready
	server.apply(p, running)
	if !p.Status.Conditions[0].LastTransitionTime.Equal(&ready.LastTransitionTime) {
		t.Error("the condition's time changed without a transition")
	}
	server.apply(p, pluginhost.Status{Phase: pluginhost.PhaseFailed, LastError: "no such file"})
	if c := p.Status.Conditions[0]; c.Status != metav1.ConditionFalse || c.Message != "no such file" || c.LastTransitionTime.Equal(&ready.LastTransitionTime) {
		t.Errorf("condition after failure: %+v", c)
	}
	cluster := &v1alpha1.Plugin{ObjectMeta: metav1.ObjectMeta{Name: "scheduler"}}
	server.apply(cluster, running)
	if len(cluster.Status.Nodes) != 0 {
		t.Errorf("a plugin of cluster scope has no entries of nodes: %+v", cluster.Status.Nodes)
	}
	if agent.runsHere(cluster) || !agent.runsHere(p) || !server.runsHere(cluster) {
		t.Error("an agent runs plugins of node scope only, a server all")
	}
}

func TestTransportCertificates(t *testing.T) {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tr, err := authorityCredentials{authority, "server"}.Transport("dns")
	if err != nil || len(tr.Host.Certificate) == 0 || len(tr.Plugin.PrivateKey) == 0 || string(tr.CA) != string(authority.CAPEM()) {
		t.Errorf("transport: %v", err)
	}
}

func TestCgroupParent(t *testing.T) {
	if got := CgroupParent(DefaultRunDir); got != "/keelson/plugins" {
		t.Errorf("usual folder: %s", got)
	}
	a, b := CgroupParent("/run/a"), CgroupParent("/run/b")
	if a == b || a == CgroupParent(DefaultRunDir) {
		t.Errorf("two run folders share %s", a)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	t.Setenv(notifySocketEnv, "")
	s := &server{cfg: Config{Log: slog.New(slog.DiscardHandler)}, replacer: &replacer{}}
	s.notify("READY=1") // nobody waits: nothing happens
	s.notifySocket = path
	s.notify("READY=1")
	buf := make([]byte, 64)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("systemd was told %q, %v", buf[:n], err)
	}
}
