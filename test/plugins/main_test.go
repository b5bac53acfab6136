package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/pluginverify"
	execplugin "keelson.dev/keelson/plugins/exec"
	"keelson.dev/keelson/plugins/kit"
	testharness "keelson.dev/keelson/test/harness"
)

// TestMain makes this binary a plugin ("plugin-run NAME", "plugin-versions 1,2 NAME") or a
// host ("host DIR") when it is executed as such.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case pluginverify.SuiteCommand:
			pluginverify.SuiteMain(os.Args[2:])
		case "plugin-run":
			if os.Args[2] == execplugin.Plugin.Name {
				kit.Main(execplugin.Plugin)
			}
			kit.Main(builtIn(os.Args[2]))
		case "plugin-swap":
			swapMain(os.Args[2], append(os.Args[3:], "")[0])
		case "plugin-decide":
			deciderMain(os.Args[2], append(os.Args[3:], "")[0])
		case "plugin-versions":
			if err := versionsMain(os.Args[2], os.Args[3]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case upgradeCommand:
			os.Exit(upgradeMain(os.Args[2]))
		case "host":
			os.Exit(hostMain(os.Args[2]))
		}
	}
	code := m.Run()
	// What go-plugin and the host started for each plugin has to end with it.
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	for _, dir := range built {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// workerConfig chooses how the built-in plugin of these tests behaves.
type workerConfig struct {
	Mode string `json:"mode"`
}

// builtIn is a plugin for tests under any name; its kind is "runtime", so that it has a
// socket, and it calls the network's.
func builtIn(name string) kit.Plugin {
	if name == "lax" {
		return lax
	}
	return kit.Plugin{
		Name: name, Kind: "runtime", Version: "test", Description: "Behaves as told.",
		Requires: []string{"network"}, ServingCertificate: true,
		Rules:        []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}},
		ConfigSchema: `{"type":"object","properties":{"mode":{"type":"string","maxLength":10}},"additionalProperties":false}`,
		New: func(env *kit.Env) (kit.Runner, error) {
			var c workerConfig
			if err := env.Decode(&c); err != nil {
				return nil, err
			}
			if c.Mode == "refused" {
				return nil, errors.New("this machine is not good enough")
			}
			return &worker{env: env, mode: c.Mode}, nil
		},
	}
}

// lax is a plugin with faults that pluginverify finds.
var lax = kit.Plugin{
	Name: "lax", Kind: "example", Version: "test", Description: "Does most things wrong.", Requires: []string{"weather"},
	Rules:        []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}}},
	ConfigSchema: `{"type":"object"}`,
	New: func(*kit.Env) (kit.Runner, error) {
		return kit.RunnerFunc(func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
	},
}

// worker is what the built-in plugin runs.
type worker struct {
	env  *kit.Env
	mode string
}

// Start implements kit.Runner.
func (w *worker) Start(ctx context.Context) error {
	switch w.mode {
	case "error":
		return errors.New("no luck today")
	case "panic":
		panic("out of order")
	case "degraded":
		w.env.Health.SetDegraded("no network yet")
	case "socket":
		w.env.Health.SetReady()
		return w.env.ServeGRPC(ctx, func(s *grpc.Server) { healthv1.RegisterHealthServer(s, health.NewServer()) })
	case "renew":
		return w.serve(ctx)
	case "child":
		// A child that outlives its parent, and holds its standard error.
		cmd := exec.Command("sleep", "600")
		cmd.Stderr = os.NewFile(2, "stderr")
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := w.write("child", []byte(fmt.Sprint(cmd.Process.Pid))); err != nil {
			return err
		}
		w.env.Health.SetReady()
	default:
		w.env.Health.SetReady()
	}
	told, err := json.Marshal(map[string]any{
		"server": w.env.API.Server, "ca": string(w.env.API.CA), "cert": string(w.env.API.Cert), "listen": w.env.Listen,
		"endpoints": w.env.Endpoints, "serving": string(w.env.Serving.Certificate), "node": w.env.Node.Name,
		"domain": w.env.Cluster.Domain, "runDir": w.env.RunDir,
	})
	if err != nil {
		return err
	}
	if err := w.write("told", told); err != nil {
		return err
	}
	w.env.Log.Info("Working", "mode", w.mode)
	fmt.Println("printed on standard output")
	<-ctx.Done()
	return w.write("ended", nil)
}

// Drain implements kit.Drainer.
func (w *worker) Drain(context.Context) error { return w.write("drained", nil) }

func (w *worker) write(name string, data []byte) error {
	return os.WriteFile(filepath.Join(w.env.DataDir, name), data, 0o600)
}

// issuer is what these tests' hosts have their identities from.
type issuer = testharness.Issuer

func newCredentials(dir string) (issuer, error) {
	a, err := pki.Open(filepath.Join(dir, "pki"))
	return issuer{Authority: a}, err
}

// config is a host's configuration with everything below dir. Groups are below a
// name of this process, so that tests do not meet.
func config(dir string, log *slog.Logger, creds pluginhost.Credentials) pluginhost.Config {
	return pluginhost.Config{
		Log: log, DataDir: filepath.Join(dir, "d"), RunDir: filepath.Join(dir, "r"), Credentials: creds,
		APIServer: "https://127.0.0.1:6443", APICA: creds.(issuer).Authority.CAPEM(),
		Cluster: pluginhost.Cluster{PodCIDRs: []string{"10.244.0.0/16"}, ServiceCIDRs: []string{"10.96.0.0/12"}, Domain: "cluster.local", DNSAddress: "10.96.0.10"},
		Node:    pluginhost.Node{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, KubeletPort: 10250},
		BuiltIn: func(name string) (pluginhost.Command, bool) {
			return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-run", name}}, name != "unknown"
		},
		CgroupParent: "/keelson-test-" + filepath.Base(dir),
	}
}

// hostMain is a host with one built-in plugin, to be killed.
func hostMain(dir string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	creds, err := newCredentials(dir)
	if err == nil {
		h := pluginhost.New(config(dir, slog.New(slog.NewTextHandler(os.Stderr, nil)), creds))
		if err = h.Ensure(pluginhost.Spec{Name: "worker", BuiltIn: true, Enabled: true}); err == nil {
			err = h.Run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// shortDir is a folder with a path short enough for Unix sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "kh") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// poll waits for cond, for at most a minute.
func poll(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come to pass within a minute: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
