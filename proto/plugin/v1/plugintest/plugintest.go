// Package plugintest is the suite that every plugin passes, whatever its kind and
// language: in memory (plugins/kit/kittest.Client) and as a process (test/plugins).
package plugintest

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/util/validation"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Subject is a plugin that was just started.
type Subject struct {
	Client pluginv1.PluginServiceClient
	// Exited gets the status of the process, once, when it ends.
	Exited <-chan int
	// Acts counts what the plugin has done so far, of a kind that an active one does
	// again and again; nil: nobody counts.
	Acts func() int64
}

// Options say what the suite cannot know.
type Options struct {
	// New starts the plugin; it ends with the test.
	New func(t *testing.T) Subject
	// Configure is a request that the plugin accepts and can be activated with.
	Configure func(t *testing.T) *pluginv1.ConfigureRequest
	// BadConfig is a configuration that it refuses; empty means {"noSuchField": 1}.
	BadConfig []byte
	// Ready says that the plugin comes to STATE_READY with the request of Configure;
	// else any state but FAILED will do (no API server in the test).
	Ready bool
	// Passive leaves out what activates the plugin: where its work would change the
	// machine that the test runs on.
	Passive bool
}

// patience bounds each wait.
const patience = 20 * time.Second

// Run runs the suite.
func Run(t *testing.T, o Options) {
	if len(o.BadConfig) == 0 {
		o.BadConfig = []byte(`{"noSuchField": 1}`)
	}
	for _, c := range []struct {
		name   string
		active bool
		test   func(*testing.T, *run)
	}{
		{"Describe", false, describe},
		{"DescribeIsIdempotent", false, describeTwice},
		{"DescribeWhileActive", true, describeActive},
		{"ConfigureRefusesBadConfig", false, badConfig},
		{"BadConfigKeepsTheEarlierOne", true, badConfigKeeps},
		{"ConfigureRefusesBadLogLevel", false, badLogLevel},
		{"ConfigureTwice", true, configureTwice},
		{"ConfigureWhileActive", true, configureWhileActive},
		{"ActivateUnconfigured", false, activateUnconfigured},
		{"ActivateTwice", true, activateTwice},
		{"DeactivateInactive", true, deactivateInactive},
		{"DeactivateAndActivateAgain", true, deactivateActivate},
		{"StandbyAfterConfigure", true, standbyAfterConfigure},
		{"ManyActivations", true, manyActivations},
		{"NoActWhileInactive", true, noActWhileInactive},
		{"ConfigureBetweenActivations", true, configureBetween},
		{"ShadowOrNone", true, shadowOrNone},
		{"RenewUnconfigured", false, renewUnconfigured},
		{"RenewRefusesBadPairs", false, renewBad},
		{"RenewInStandby", true, renewStandby},
		{"RenewWhileActive", true, renewActive},
		{"HealthOfAStandby", false, healthStandby},
		{"HealthFollowsTheLife", true, healthFollows},
		{"HealthHasManyCallers", true, healthMany},
		{"DrainThenStop", true, drainStop},
		{"StopUnconfigured", false, stopUnconfigured},
	} {
		if c.active && o.Passive {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			defer cancel()
			r := &run{Options: o, ctx: ctx}
			request := o.Configure(t) // first: its folders have to outlive the plugin
			r.Configure = func(*testing.T) *pluginv1.ConfigureRequest {
				return proto.Clone(request).(*pluginv1.ConfigureRequest)
			}
			r.Subject = o.New(t)
			c.test(t, r)
		})
	}
}

// run is one test of the suite with a plugin of its own.
type run struct {
	Options
	Subject
	ctx context.Context
}

func describe(t *testing.T, r *run) {
	d := r.describe(t)
	if faults := validation.IsDNS1123Label(d.GetName()); len(faults) > 0 {
		t.Errorf("name %q is no DNS label: %v", d.GetName(), faults)
	}
	for what, value := range map[string]string{"kind": d.GetKind(), "version": d.GetVersion(), "description": d.GetDescription()} {
		if value == "" {
			t.Errorf("%s is empty", what)
		}
	}
	if d.GetScope() == pluginv1.Scope_SCOPE_UNSPECIFIED {
		t.Error("scope is not specified")
	}
	for i, rule := range d.GetRules() {
		if len(rule.GetVerbs()) == 0 {
			t.Errorf("rule %d has no verbs: %v", i, rule)
		}
		if len(rule.GetResources()) == 0 && len(rule.GetNonResourceUrls()) == 0 {
			t.Errorf("rule %d has neither resources nor paths: %v", i, rule)
		}
	}
}

func describeTwice(t *testing.T, r *run) {
	if before, after := r.describe(t), r.describe(t); !proto.Equal(before, after) {
		t.Errorf("Describe differs the second time:\n%v\n%v", before, after)
	}
}

func describeActive(t *testing.T, r *run) {
	before := r.describe(t)
	r.configure(t)
	r.activate(t)
	if after := r.describe(t); !proto.Equal(before, after) {
		t.Errorf("Describe differs when active:\n%v\n%v", before, after)
	}
}

func badConfig(t *testing.T, r *run) {
	request := r.Configure(t)
	request.Config = r.BadConfig
	_, err := r.Client.Configure(r.ctx, request)
	wantCode(t, "Configure with "+string(r.BadConfig), err, codes.InvalidArgument)
	if status.Convert(err).Message() == "" {
		t.Error("the refusal has no message")
	}
	_, err = r.Client.Activate(r.ctx, &pluginv1.ActivateRequest{})
	wantCode(t, "Activate after a refused configuration", err, codes.FailedPrecondition)
}

func badConfigKeeps(t *testing.T, r *run) {
	r.configure(t)
	request := r.Configure(t)
	request.Config = r.BadConfig
	_, err := r.Client.Configure(r.ctx, request)
	wantCode(t, "Configure with "+string(r.BadConfig), err, codes.InvalidArgument)
	r.activate(t)
}

func badLogLevel(t *testing.T, r *run) {
	request := r.Configure(t)
	request.LogLevel = "loud"
	_, err := r.Client.Configure(r.ctx, request)
	wantCode(t, `Configure with log level "loud"`, err, codes.InvalidArgument)
}

func configureTwice(t *testing.T, r *run) {
	r.configure(t)
	r.configure(t)
	r.activate(t)
}

func configureWhileActive(t *testing.T, r *run) {
	r.configure(t)
	r.activate(t)
	_, err := r.Client.Configure(r.ctx, r.Configure(t))
	wantCode(t, "Configure while active", err, codes.FailedPrecondition)
	r.deactivate(t)
	r.configure(t)
	r.activate(t)
}

func activateUnconfigured(t *testing.T, r *run) {
	_, err := r.Client.Activate(r.ctx, &pluginv1.ActivateRequest{})
	wantCode(t, "Activate", err, codes.FailedPrecondition)
}

func activateTwice(t *testing.T, r *run) {
	r.configure(t)
	r.activate(t)
	r.activate(t)
	r.running(t)
}

func deactivateInactive(t *testing.T, r *run) {
	r.deactivate(t)
	r.configure(t)
	r.deactivate(t)
	r.activate(t)
}

func deactivateActivate(t *testing.T, r *run) {
	r.configure(t)
	for range 2 {
		r.activate(t)
		r.running(t)
		r.deactivate(t)
		r.deactivate(t)
		r.waitStandby(t, r.health(t))
	}
}

// standbyAfterConfigure: a configured plugin gets warm and says so, activated or not.
func standbyAfterConfigure(t *testing.T, r *run) {
	r.configure(t)
	stream := r.health(t)
	r.waitStandby(t, stream)
	r.activate(t)
	r.waitActive(t, stream)
}

// manyActivations is a plugin between which and another one swaps go to and fro.
func manyActivations(t *testing.T, r *run) {
	r.configure(t)
	stream := r.health(t)
	for range activations {
		r.activate(t)
		r.waitActive(t, stream)
		r.waitActs(t)
		r.deactivate(t)
		r.waitStandby(t, stream)
	}
}

// activations is how often manyActivations goes to and fro.
const activations = 20

// noActWhileInactive: neither before the first activation nor from the answer of a
// deactivation on does it act.
func noActWhileInactive(t *testing.T, r *run) {
	r.configure(t)
	if r.Acts != nil && r.Acts() != 0 {
		t.Errorf("acts before the first activation: got %d, want none", r.Acts())
	}
	for range 3 {
		r.activate(t)
		r.running(t)
		r.waitActs(t)
		r.deactivate(t)
		if r.Acts == nil {
			continue
		}
		before := r.Acts()
		r.waitStandby(t, r.health(t))
		for range 50 {
			r.describe(t)
		}
		if after := r.Acts(); after != before {
			t.Errorf("acts after a deactivation: got %d, want none", after-before)
		}
	}
}

// configureBetween: a deactivated plugin takes another configuration.
func configureBetween(t *testing.T, r *run) {
	for range 3 {
		r.configure(t)
		r.activate(t)
		r.running(t)
		r.deactivate(t)
	}
}

// shadowOrNone: a plugin without a shadow mode says so and stays as it was.
func shadowOrNone(t *testing.T, r *run) {
	r.configure(t)
	_, err := r.Client.Activate(r.ctx, &pluginv1.ActivateRequest{Mode: pluginv1.Mode_MODE_SHADOW})
	if err != nil {
		wantCode(t, "Activate as a shadow", err, codes.Unimplemented)
	}
	r.deactivate(t)
	r.activate(t)
	r.running(t)
}

// waitActs waits until the plugin does something.
func (r *run) waitActs(t *testing.T) {
	t.Helper()
	if r.Acts == nil {
		return
	}
	before := r.Acts()
	for deadline := time.Now().Add(patience); r.Acts() == before; {
		if time.Now().After(deadline) {
			t.Fatalf("the active plugin did nothing for %s", patience)
		}
		time.Sleep(time.Millisecond)
	}
}

func drainStop(t *testing.T, r *run) {
	r.configure(t)
	r.activate(t)
	r.running(t)
	for range 2 {
		_, err := r.Client.Drain(r.ctx, &pluginv1.DrainRequest{Timeout: durationpb.New(5 * time.Second)})
		if err != nil && status.Code(err) != codes.Unimplemented {
			t.Errorf("Drain: %v", err)
		}
	}
	r.stop(t)
}

func stopUnconfigured(t *testing.T, r *run) { r.stop(t) }

func (r *run) describe(t *testing.T) *pluginv1.DescribeResponse {
	t.Helper()
	d, err := r.Client.Describe(r.ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		t.Fatalf("Describe: %v", err)
	}
	return d
}

func (r *run) configure(t *testing.T) {
	t.Helper()
	if _, err := r.Client.Configure(r.ctx, r.Configure(t)); err != nil {
		t.Fatalf("Configure: %v", err)
	}
}

func (r *run) activate(t *testing.T) {
	t.Helper()
	if _, err := r.Client.Activate(r.ctx, &pluginv1.ActivateRequest{}); err != nil {
		t.Fatalf("Activate: %v", err)
	}
}

func (r *run) deactivate(t *testing.T) {
	t.Helper()
	if _, err := r.Client.Deactivate(r.ctx, &pluginv1.DeactivateRequest{}); err != nil {
		t.Fatalf("Deactivate: %v", err)
	}
}

// stop stops the plugin and wants the process to end well.
func (r *run) stop(t *testing.T) {
	t.Helper()
	if _, err := r.Client.Stop(r.ctx, &pluginv1.StopRequest{}); err != nil {
		t.Fatalf("Stop: %v", err)
	}
	select {
	case code := <-r.Exited:
		if code != 0 {
			t.Errorf("the process ended with status %d, want 0", code)
		}
	case <-time.After(patience):
		t.Errorf("the process did not end within %s of Stop", patience)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got code %s (%v), want %s", what, got, err, want)
	}
}
