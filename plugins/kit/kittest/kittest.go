// Package kittest puts what the kernel gives around a plugin in a test: no process,
// no API server. NewEnv and Run drive a Runner directly; Client speaks the base
// contract with a plugin over gRPC in memory. All of it ends with the test.
package kittest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"keelson.dev/keelson/plugins/kit"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// endTime bounds how long a runner may take to end with its test.
const endTime = 10 * time.Second

// patience bounds how long Eventually waits.
const patience = 20 * time.Second

// NewEnv is an environment with temporary folders, a logger that writes to the test, a
// socket to listen on, the cluster's default networks, and no API. Change it as needed
// before giving it to Plugin.New.
func NewEnv(t testing.TB, p kit.Plugin) *kit.Env {
	t.Helper()
	run := t.TempDir()
	env := &kit.Env{
		Name: p.Name, Version: "test", Log: Logger(t),
		Cluster: kit.Cluster{
			PodCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
			ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
			Domain:       "cluster.local",
			DNSAddress:   netip.MustParseAddr("10.96.0.10"),
		},
		Node:    kit.Node{Name: "test-node", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, KubeletPort: 10250},
		DataDir: t.TempDir(), RunDir: run, Listen: filepath.Join(run, p.Kind+".sock"),
		Endpoints: map[string]string{}, Health: &kit.Health{}, Metrics: prometheus.NewRegistry(), Process: t.Context(),
	}
	for _, kind := range p.Requires {
		env.Endpoints[kind] = filepath.Join(run, kind+".sock")
	}
	return env
}

// Run starts the runner, with its warm standby if it has one, and ends it with the test;
// it fails the test if Start or Warm returns early, with an error, or not in time. The
// function returned ends it sooner.
func Run(t testing.TB, r kit.Runner) (stop func()) {
	t.Helper()
	end := func() {}
	if w, ok := r.(kit.WarmStandby); ok {
		end = Warm(t, w, func() {})
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		err := r.Start(ctx)
		if ctx.Err() == nil {
			t.Errorf("Start returned while its context was alive: %v", err)
		}
		done <- err
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Start: %v", err)
			}
		case <-time.After(endTime):
			t.Errorf("Start did not return within %s of the end of its context", endTime)
		}
		end()
		if c, ok := r.(kit.Closer); ok {
			c.Close()
		}
	})
	t.Cleanup(stop)
	return stop
}

// Warm keeps the runner warm until the test ends, as the kit does from Configure on. The
// function returned ends it sooner.
func Warm(t testing.TB, r kit.WarmStandby, warm func()) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Warm(ctx, warm) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Warm: %v", err)
			}
		case <-time.After(endTime):
			t.Errorf("Warm did not return within %s of the end of its context", endTime)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Eventually asks until check returns no error; it ends the test after patience.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Client is a client of the base contract, served by the plugin over gRPC in memory.
// exited gets the status with which the process would have ended.
func Client(t testing.TB, p kit.Plugin) (client pluginv1.PluginServiceClient, exited <-chan int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	codes := make(chan int, 4)
	service := kit.NewService(ctx, p, Logger(t), &slog.LevelVar{}, func(code int) { codes <- code })
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	pluginv1.RegisterPluginServiceServer(server, service)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end, done := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer done()
		if err := service.Close(end); err != nil {
			t.Errorf("end the plugin: %v", err)
		}
		cancel()
		_ = conn.Close()
		server.Stop()
		<-served
	})
	return pluginv1.NewPluginServiceClient(conn), codes
}

// Logger writes to the test's log, at every level. Lines that come after the end of the
// test are dropped.
func Logger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.close)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	mu sync.Mutex // guards t
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSuffix(string(p), "\n"))
	}
	return len(p), nil
}

func (w *testWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
}
