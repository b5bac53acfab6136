package plugins

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// BenchmarkCall is what a call of a plugin costs, in both processes: over go-plugin's
// connection (mutual TLS) and over the socket of a kind.
func BenchmarkCall(b *testing.B) {
	creds, err := newCredentials(shortDir(b))
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "plugin-run", "worker")
	base := launch(b, creds, "worker", cmd).Client
	within := embed(b, builtIn("worker")).Client
	h := start(b)
	h.ensure(b, worker1("socket"))
	s := h.wait(b, "worker", pluginhost.PhaseRunning)
	conn, err := kit.DialSocket(filepath.Join(h.dir, "r/runtime.sock"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	socket := healthv1.NewHealthClient(conn)

	for _, c := range []struct {
		name string
		pid  int
		call func(ctx context.Context) error
	}{
		{"base, unary", cmd.Process.Pid, func(ctx context.Context) error {
			_, err := base.Describe(ctx, &pluginv1.DescribeRequest{})
			return err
		}},
		{"base, stream until its first message", cmd.Process.Pid, func(ctx context.Context) error {
			stream, err := base.Health(ctx, &pluginv1.HealthRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
		{"base within this process, unary", os.Getpid(), func(ctx context.Context) error {
			_, err := within.Describe(ctx, &pluginv1.DescribeRequest{})
			return err
		}},
		{"socket, unary", s.PID, func(ctx context.Context) error {
			_, err := socket.Check(ctx, &healthv1.HealthCheckRequest{})
			return err
		}},
		{"socket, stream until its first message", s.PID, func(ctx context.Context) error {
			stream, err := socket.Watch(ctx, &healthv1.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			own, its := cpuOf(b, os.Getpid()), cpuOf(b, c.pid)
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				err := c.call(ctx)
				cancel()
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuOf(b, os.Getpid())-own)/float64(b.N), "caller-cpu-ns/op")
			b.ReportMetric(float64(cpuOf(b, c.pid)-its)/float64(b.N), "plugin-cpu-ns/op")
		})
	}
}

// BenchmarkLaunch is the time and the CPU from the launch of a plugin to its first READY.
func BenchmarkLaunch(b *testing.B) {
	var cpu int64
	for b.Loop() {
		h := start(b)
		h.ensure(b, worker1("x"))
		cpu += cpuOf(b, h.wait(b, "worker", pluginhost.PhaseRunning).PID)
		h.stop()
	}
	b.ReportMetric(float64(cpu)/float64(b.N), "plugin-cpu-ns/op")
}

// cpuOf is the CPU time of a process in nanoseconds, from the clock of the process.
func cpuOf(b *testing.B, pid int) int64 {
	b.Helper()
	// The kernel's number for the CPU clock of a process (see clock_getcpuclockid(3)).
	clock := int32(^pid<<3 | 2)
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		b.Fatalf("CPU time of process %d: %v", pid, err)
	}
	return ts.Nano()
}
