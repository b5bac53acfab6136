package kit_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

func TestConfigureErrors(t *testing.T) {
	for _, c := range []struct {
		mode string
		code codes.Code
		text string
	}{
		{"invalid", codes.InvalidArgument, `mode: Invalid value: "invalid": no such mode`},
		{"panic-new", codes.Internal, "panic: in New"},
		{"not-here", codes.FailedPrecondition, "the kernel has no such feature"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			client, _ := kittest.Client(t, newPlugin())
			_, err := client.Configure(t.Context(), request(t, c.mode))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Configure: got %v, want %s and %q", err, c.code, c.text)
			}
		})
	}
}

func TestConfigureRefusesBadAddresses(t *testing.T) {
	client, _ := kittest.Client(t, newPlugin())
	r := request(t, "")
	r.Cluster = &pluginv1.Cluster{PodCidrs: []string{"10.0.0.0/8", "ten"}}
	_, err := client.Configure(t.Context(), r)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `cluster.podCIDRs[1]: Invalid value: "ten"`) {
		t.Errorf("Configure: got %v, want INVALID_ARGUMENT that names cluster.podCIDRs[1]", err)
	}
}

// TestEndsTheProcess: a Start that fails, ends or panics takes the process along.
func TestEndsTheProcess(t *testing.T) {
	for _, mode := range []string{"error", "return", "panic"} {
		t.Run(mode, func(t *testing.T) {
			client, exited := kittest.Client(t, newPlugin())
			if _, err := client.Configure(t.Context(), request(t, mode)); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
				t.Fatal(err)
			}
			select {
			case code := <-exited:
				if code != 1 {
					t.Errorf("exit status: got %d, want 1", code)
				}
			case <-time.After(time.Minute):
				t.Fatal("the process goes on")
			}
		})
	}
}

func TestDegraded(t *testing.T) {
	client, _ := kittest.Client(t, newPlugin())
	if _, err := client.Configure(t.Context(), request(t, "degraded")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	stream, err := client.Health(t.Context(), &pluginv1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r.GetState() == pluginv1.State_STATE_DEGRADED {
			if r.GetMessage() != "half of it" {
				t.Errorf("message: got %q, want %q", r.GetMessage(), "half of it")
			}
			return
		}
	}
}

func TestMetricsAreServed(t *testing.T) {
	client, _ := kittest.Client(t, newPlugin())
	r := request(t, "")
	if _, err := client.Configure(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.GetRunDir(), kit.MetricsSocket)
	poll(t, func() bool { _, err := os.Stat(path); return err == nil })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: got %v, %v, want mode 0600", info, err)
	}
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	defer web.CloseIdleConnections()
	resp, err := web.Get("http://plugin/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), "go_goroutines") {
		t.Errorf("metrics: got %.200q, %v, want go_goroutines", body, err)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ name, config, want, fault string }{
		{"empty", ``, "default", ""},
		{"null", `null`, "default", ""},
		{"no field", `{}`, "default", ""},
		{"set", `{"mode":"a"}`, "a", ""},
		{"unknown field", `{"mod":"a"}`, "default", `unknown field "mod"`},
		{"wrong type", `{"mode":5}`, "default", "mode: got a JSON number, want string"},
		{"not JSON", `{`, "default", "config: "},
		{"trailing", `{} {}`, "default", "something follows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := config{Mode: "default"}
			err := (&kit.Env{Config: []byte(c.config)}).Decode(&got)
			if c.fault == "" && err != nil || c.fault != "" && (status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.fault)) {
				t.Errorf("error: got %v, want %q", err, c.fault)
			}
			if got.Mode != c.want {
				t.Errorf("mode: got %q, want %q", got.Mode, c.want)
			}
		})
	}
}

func TestFieldErrors(t *testing.T) {
	if err := kit.FieldErrors(nil); err != nil {
		t.Errorf("no faults: got %v, want nil", err)
	}
	err := kit.FieldErrors(field.ErrorList{field.Required(field.NewPath("a"), ""), field.Invalid(field.NewPath("b"), 1, "too small")})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "a: Required") || !strings.Contains(err.Error(), "b: Invalid value: 1") {
		t.Errorf("got %v, want both faults as INVALID_ARGUMENT", err)
	}
}

// TestServeGRPCAndDial: a client survives the server's restart, a stale socket is
// replaced, and the socket is root's alone.
func TestServeGRPCAndDial(t *testing.T) {
	env := kittest.NewEnv(t, newPlugin())
	if err := os.WriteFile(env.Listen, []byte("stale"), 0o644); err != nil {
		t.Fatal(err)
	}
	serve := func() func() {
		return kittest.Run(t, kit.RunnerFunc(func(ctx context.Context) error {
			return env.ServeGRPC(ctx, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, health.NewServer()) })
		}))
	}
	conn, err := kit.DialSocket(env.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := grpc_health_v1.NewHealthClient(conn)
	check := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err
	}
	stop := serve()
	if err := check(); err != nil {
		t.Fatalf("first call: %v", err)
	}
	if info, err := os.Stat(env.Listen); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: got %v, %v, want mode 0600", info, err)
	}
	stop()
	if _, err := os.Stat(env.Listen); err == nil {
		t.Error("the socket is left over")
	}
	serve()
	if err := check(); err != nil {
		t.Fatalf("call after the server's restart: %v", err)
	}
}

func TestServeGRPCWithoutSocket(t *testing.T) {
	env := kittest.NewEnv(t, newPlugin())
	env.Listen = ""
	if err := env.ServeGRPC(t.Context(), func(*grpc.Server) {}); err == nil {
		t.Error("ServeGRPC without a socket: got nil, want an error")
	}
}

func poll(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass within 10s")
		}
		<-time.After(5 * time.Millisecond)
	}
}
