package plugintest

import (
	"testing"
	"time"

	"google.golang.org/grpc"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

type healthStream = grpc.ServerStreamingClient[pluginv1.HealthResponse]

// waitStandby waits for STANDBY. One that lacks what the test does not have (an API
// server) may be cold for ever.
func (r *run) waitStandby(t *testing.T, stream healthStream) {
	t.Helper()
	states := []pluginv1.State{pluginv1.State_STATE_STANDBY}
	if !r.Ready {
		states = append(states, pluginv1.State_STATE_STARTING)
	}
	r.waitState(t, stream, states...)
}

func healthStandby(t *testing.T, r *run) {
	r.waitState(t, r.health(t), pluginv1.State_STATE_STANDBY)
}

func healthFollows(t *testing.T, r *run) {
	stream := r.health(t)
	first, err := stream.Recv()
	if err != nil {
		t.Fatalf("Health: %v", err)
	}
	if first.GetState() != pluginv1.State_STATE_STANDBY {
		t.Errorf("first report: got %s, want STATE_STANDBY", first.GetState())
	}
	r.configure(t)
	r.activate(t)
	r.waitActive(t, stream)
	r.deactivate(t)
	r.waitStandby(t, stream)
}

func healthMany(t *testing.T, r *run) {
	r.configure(t)
	r.activate(t)
	for range 3 {
		r.waitActive(t, r.health(t))
	}
}

func (r *run) health(t *testing.T) healthStream {
	t.Helper()
	stream, err := r.Client.Health(r.ctx, &pluginv1.HealthRequest{})
	if err != nil {
		t.Fatalf("Health: %v", err)
	}
	return stream
}

// running wants the plugin to be at work.
func (r *run) running(t *testing.T) {
	t.Helper()
	r.waitActive(t, r.health(t))
}

// waitActive waits for READY, or what may stand for it.
func (r *run) waitActive(t *testing.T, stream healthStream) {
	t.Helper()
	states := []pluginv1.State{pluginv1.State_STATE_READY}
	if !r.Ready {
		states = append(states, pluginv1.State_STATE_STARTING, pluginv1.State_STATE_DEGRADED)
	}
	r.waitState(t, stream, states...)
}

func (r *run) waitState(t *testing.T, stream healthStream, want ...pluginv1.State) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		report, err := stream.Recv()
		if err != nil {
			t.Fatalf("Health while waiting for %v: %v", want, err)
		}
		for _, w := range want {
			if report.GetState() == w {
				return
			}
		}
		if report.GetState() == pluginv1.State_STATE_FAILED || time.Now().After(deadline) {
			t.Fatalf("Health: got %s (%s), want one of %v", report.GetState(), report.GetMessage(), want)
		}
	}
}
