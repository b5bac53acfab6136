package kit_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// worker is a runner with a cache, which one activation may use and no other.
type worker struct {
	env  *kit.Env
	mode string
	log  *record

	warm  chan struct{} // closed when the cache is full
	began bool
}

// record is what happened, over all runners of a plugin.
type record struct {
	runners, acts, warming, ended atomic.Int64
	gate                          chan struct{} // nil, or what Warm waits for
}

func (w *worker) Warm(ctx context.Context, warm func()) error {
	w.log.warming.Add(1)
	defer w.log.ended.Add(1)
	switch w.mode {
	case "warm-error":
		return errors.New("no cache")
	case "warm-panic":
		panic("in Warm")
	}
	if w.log.gate != nil {
		select {
		case <-w.log.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	close(w.warm)
	warm()
	<-ctx.Done()
	return nil
}

func (w *worker) Start(ctx context.Context) error {
	if w.began {
		return errors.New("started twice")
	}
	w.began = true
	select {
	case <-w.warm:
	case <-ctx.Done():
		return nil
	}
	w.env.Health.SetReady()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		w.log.acts.Add(1)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func workerPlugin(log *record) kit.Plugin {
	return kit.Plugin{
		Name: "worker", Kind: "test", Description: "Counts.",
		ConfigSchema: `{"type":"object","properties":{"mode":{"type":"string"}},"additionalProperties":false}`,
		New: func(env *kit.Env) (kit.Runner, error) {
			var c config
			if err := env.Decode(&c); err != nil {
				return nil, err
			}
			log.runners.Add(1)
			return &worker{env: env, mode: c.Mode, log: log, warm: make(chan struct{})}, nil
		},
	}
}

// TestContractOfAWarmStandby passes a plugin with a warm standby through the suite.
func TestContractOfAWarmStandby(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			log := &record{}
			client, exited := kittest.Client(t, workerPlugin(log))
			return plugintest.Subject{Client: client, Exited: exited, Acts: log.acts.Load}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest { return request(t, "") },
		Ready:     true,
	})
}

// states follows the plugin's reports.
func states(t *testing.T, client pluginv1.PluginServiceClient) (wait func(pluginv1.State)) {
	t.Helper()
	stream, err := client.Health(t.Context(), &pluginv1.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return func(want pluginv1.State) {
		t.Helper()
		for {
			r, err := stream.Recv()
			if err != nil {
				t.Fatalf("Health while waiting for %s: %v", want, err)
			}
			if r.GetState() == want {
				return
			}
		}
	}
}

func TestStandbyIsColdUntilWarm(t *testing.T) {
	log := &record{gate: make(chan struct{})}
	client, _ := kittest.Client(t, workerPlugin(log))
	if _, err := client.Configure(t.Context(), request(t, "")); err != nil {
		t.Fatal(err)
	}
	wait := states(t, client)
	wait(pluginv1.State_STATE_STARTING)
	close(log.gate)
	wait(pluginv1.State_STATE_STANDBY)
	if n := log.acts.Load(); n != 0 {
		t.Errorf("acts of a standby: got %d, want none", n)
	}
	if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	if log.acts.Load() == 0 { // its answer tells that the work goes on
		wait(pluginv1.State_STATE_READY)
	}
}

// TestActivateBeforeWarm: whoever cannot wait gets a plugin that starts cold.
func TestActivateBeforeWarm(t *testing.T) {
	log := &record{gate: make(chan struct{})}
	client, _ := kittest.Client(t, workerPlugin(log))
	if _, err := client.Configure(t.Context(), request(t, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	close(log.gate)
	states(t, client)(pluginv1.State_STATE_READY)
}

// TestEachActivationHasItsOwnRunner: after a deactivation the next one is warmed at once,
// and nothing of the earlier one is used.
func TestEachActivationHasItsOwnRunner(t *testing.T) {
	log := &record{}
	client, _ := kittest.Client(t, workerPlugin(log))
	if _, err := client.Configure(t.Context(), request(t, "")); err != nil {
		t.Fatal(err)
	}
	wait := states(t, client)
	const rounds = 3
	for range rounds {
		if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
			t.Fatal(err)
		}
		wait(pluginv1.State_STATE_READY)
		if _, err := client.Deactivate(t.Context(), &pluginv1.DeactivateRequest{}); err != nil {
			t.Fatal(err)
		}
		wait(pluginv1.State_STATE_STANDBY)
		poll(t, func() bool {
			return log.runners.Load() == log.ended.Load()+1 && log.warming.Load() == log.runners.Load()
		})
	}
	if n := log.runners.Load(); n != rounds+1 {
		t.Errorf("runners: got %d, want one for each activation and one in standby: %d", n, rounds+1)
	}
}

// TestConfigureEndsTheEarlierStandby: only the last configuration is kept warm.
func TestConfigureEndsTheEarlierStandby(t *testing.T) {
	log := &record{}
	client, _ := kittest.Client(t, workerPlugin(log))
	for range 3 {
		if _, err := client.Configure(t.Context(), request(t, "")); err != nil {
			t.Fatal(err)
		}
		states(t, client)(pluginv1.State_STATE_STANDBY)
	}
	if n := log.ended.Load(); n != 2 {
		t.Errorf("standbys that ended: got %d, want 2", n)
	}
}

// TestStandbyThatFailsEndsTheProcess, as a Start that fails does.
func TestStandbyThatFailsEndsTheProcess(t *testing.T) {
	for _, mode := range []string{"warm-error", "warm-panic"} {
		t.Run(mode, func(t *testing.T) {
			client, exited := kittest.Client(t, workerPlugin(&record{}))
			if _, err := client.Configure(t.Context(), request(t, mode)); err != nil {
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
			states(t, client)(pluginv1.State_STATE_FAILED)
		})
	}
}

// TestDeactivateFinishesWhatWasBegun: calls outlive the activation, and are out of time
// before Deactivate has to answer.
func TestDeactivateFinishesWhatWasBegun(t *testing.T) {
	begun, until := make(chan struct{}), make(chan time.Time, 1)
	p := kit.Plugin{Name: "finisher", Kind: "test", Description: "Finishes.", New: func(env *kit.Env) (kit.Runner, error) {
		return kit.RunnerFunc(func(ctx context.Context) error {
			calls, cancel := kit.FinishCalls(ctx)
			defer cancel()
			env.Health.SetReady()
			close(begun)
			<-ctx.Done()
			if err := calls.Err(); err != nil {
				return fmt.Errorf("the call ended with the activation: %w", err)
			}
			end, done := kit.Finish(ctx)
			defer done()
			by, _ := end.Deadline()
			until <- by
			return nil
		}), nil
	}}
	client, _ := kittest.Client(t, p)
	if _, err := client.Configure(t.Context(), request(t, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Activate(t.Context(), &pluginv1.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.Deactivate(ctx, &pluginv1.DeactivateRequest{}); err != nil {
		t.Fatalf("Deactivate: %v", err)
	}
	limit, _ := ctx.Deadline()
	if by := <-until; !by.Before(limit) || time.Until(by) < time.Second {
		t.Errorf("what was begun has until %s, want a little before %s", by, limit)
	}
}
