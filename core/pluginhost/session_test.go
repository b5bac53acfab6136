package pluginhost

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// reporter is a plugin of which only Health is there.
type reporter struct {
	pluginv1.PluginServiceClient
	reports chan *pluginv1.HealthResponse
}

// Health streams what is in reports.
func (r *reporter) Health(ctx context.Context, _ *pluginv1.HealthRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[pluginv1.HealthResponse], error) {
	return &reports{ctx: ctx, from: r.reports}, nil
}

type reports struct {
	grpc.ClientStream
	ctx  context.Context
	from chan *pluginv1.HealthResponse
}

// Recv is the next report, or an error when the channel is closed.
func (r *reports) Recv() (*pluginv1.HealthResponse, error) {
	select {
	case report, ok := <-r.from:
		if !ok {
			return nil, errors.New("hung up")
		}
		return report, nil
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
}

// TestWatch: when a plugin counts as hung, failed, ended or broken; in fake time.
func TestWatch(t *testing.T) {
	report := func(s pluginv1.State, msg string) *pluginv1.HealthResponse {
		return &pluginv1.HealthResponse{State: s, Message: msg}
	}
	for _, c := range []struct {
		name  string
		play  func(r *reporter, p *process, cancel context.CancelFunc)
		want  string
		phase Phase
		took  time.Duration
	}{
		{"hangs at once", func(*reporter, *process, context.CancelFunc) {}, "the plugin hangs: no report for 30s", "", 30 * time.Second},
		{"hangs later", func(r *reporter, _ *process, _ context.CancelFunc) {
			r.reports <- report(pluginv1.State_STATE_STARTING, "")
			time.Sleep(20 * time.Second)
			r.reports <- report(pluginv1.State_STATE_READY, "")
		}, "the plugin hangs: no report for 30s", PhaseRunning, 50 * time.Second},
		{"fails", func(r *reporter, _ *process, _ context.CancelFunc) {
			r.reports <- report(pluginv1.State_STATE_DEGRADED, "half")
			r.reports <- report(pluginv1.State_STATE_FAILED, "no disk")
		}, "the plugin failed: no disk", PhaseDegraded, 0},
		{"ends", func(r *reporter, p *process, _ context.CancelFunc) {
			r.reports <- report(pluginv1.State_STATE_READY, "")
			time.Sleep(time.Second)
			close(p.done)
		}, "the process ended", PhaseRunning, time.Second},
		{"hangs up and ends", func(r *reporter, p *process, _ context.CancelFunc) {
			close(r.reports)
			time.Sleep(endSeen / 2)
			close(p.done)
		}, "the process ended", "", endSeen / 2},
		{"hangs up", func(r *reporter, _ *process, _ context.CancelFunc) { close(r.reports) }, "health: hung up", "", 2 * endSeen},
		{"is asked to end", func(_ *reporter, _ *process, cancel context.CancelFunc) { cancel() }, "context canceled", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New(Config{Log: slog.New(slog.DiscardHandler), DataDir: t.TempDir()})
				r, p := &reporter{reports: make(chan *pluginv1.HealthResponse)}, &process{done: make(chan struct{})}
				var phase Phase
				s := &session{unit: newUnit(h, Spec{Name: "x"}), rpc: r, body: &launched{process: p}, started: time.Now(), notify: func(e sessionEvent) {
					switch e.report.GetState() {
					case pluginv1.State_STATE_READY:
						phase = PhaseRunning
					case pluginv1.State_STATE_DEGRADED:
						phase = PhaseDegraded
					}
				}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				began := time.Now()
				go c.play(r, p, cancel)
				err := s.watch(ctx)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if got := phase; got != c.phase {
					t.Errorf("phase: got %q, want %q", got, c.phase)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
			})
		})
	}
}
