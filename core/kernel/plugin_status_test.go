package kernel

import (
	"context"
	"log/slog"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// swapped is a Plugin object with all that a revision is made of.
func swapped() *v1alpha1.Plugin {
	memory, cpu, pids, watch := resource.MustParse("64Mi"), resource.MustParse("250m"), int64(100), int32(7)
	return &v1alpha1.Plugin{
		ObjectMeta: metav1.ObjectMeta{Name: "x", Generation: 4, UID: "u-1"},
		Spec: v1alpha1.PluginSpec{
			Kind: "example", Source: v1alpha1.PluginSource{Path: "/p", SHA256: "00"}, Args: []string{"-v"},
			Config:    &runtime.RawExtension{Raw: []byte(`{"b":1,"a":"<"}`)},
			Rules:     []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}},
			Resources: &v1alpha1.PluginResources{Limits: &v1alpha1.PluginLimits{Memory: &memory, CPU: &cpu, Pids: &pids}},
			Swap:      &v1alpha1.PluginSwapPolicy{WatchSeconds: &watch, Restart: true},
		},
	}
}

func TestHostSpec(t *testing.T) {
	got := hostSpec(swapped())
	if got.Watch != 7*time.Second || !got.Restart || !got.Enabled || got.Generation != 4 || len(got.Rules) != 1 ||
		got.Limits != (pluginhost.Limits{Memory: 64 << 20, MilliCPU: 250, Pids: 100}) {
		t.Errorf("got %+v", got)
	}
}

// TestStatusAndBack: what a status tells the next kernel is what this one knew, so that the
// revisions are the same.
func TestStatusAndBack(t *testing.T) {
	host := pluginhost.New(pluginhost.Config{Version: "v1"})
	server := newPluginSync(slog.New(slog.DiscardHandler), "a", true, nil)
	p := swapped()
	ran := hostSpec(p)
	bad := ran
	bad.Args = []string{"-bad"}
	began := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	status := pluginhost.Status{
		Phase: pluginhost.PhaseRunning, Generation: 5, Revision: host.Revision(ran), Progress: pluginhost.ProgressRolledBack, ProgressMessage: "it was bad",
		Description: &pluginhost.Description{},
		History: &pluginhost.History{Revisions: []pluginhost.Revision{
			{Revision: host.Revision(bad), Outcome: pluginhost.OutcomeRolledBack, Message: "it was bad", Start: began, End: began, Gap: 1500 * time.Microsecond, Spec: bad},
			{Revision: host.Revision(ran), Generation: 4, Outcome: pluginhost.OutcomeActive, Start: began, Gap: -1, Spec: ran},
		}},
	}
	server.apply(p, status)
	if h := p.Status.History; len(h) != 2 || *h[0].GapMilliseconds != 2 || h[1].GapMilliseconds != nil || h[1].EndTime != nil ||
		!equality.Semantic.DeepEqual(h[1].Spec.Resources, swapped().Spec.Resources) {
		t.Errorf("history: got %+v", h)
	}
	for kind, want := range map[string]string{"Ready": "True", "Progressing": "False", "Accepted": "True", "RolledBack": "True"} {
		c := meta.FindStatusCondition(p.Status.Conditions, kind)
		if c == nil || string(c.Status) != want || c.ObservedGeneration != 5 {
			t.Errorf("condition %s: got %+v, want %s", kind, c, want)
		}
	}
	back := server.restore(p)
	if back.Active == nil || host.Revision(*back.Active) != host.Revision(ran) || back.Revision != host.Revision(ran) {
		t.Errorf("what ran: got %+v, want revision %s", back, host.Revision(ran))
	}
	if back.Failed != host.Revision(bad) || back.FailedOutcome != pluginhost.OutcomeRolledBack || back.FailedMessage != "it was bad" || len(back.History) != 2 {
		t.Errorf("what failed: got %+v", back)
	}
	status.Progress, status.NotAccepted = pluginhost.ProgressStandby, "get pods"
	status.Candidate = pluginhost.Candidate{Revision: "r", Phase: pluginhost.CandidateStandby, PID: 7}
	server.apply(p, status)
	if c := meta.FindStatusCondition(p.Status.Conditions, "Progressing"); c.Status != metav1.ConditionTrue || c.Reason != "Standby" || p.Status.Candidate.PID != 7 {
		t.Errorf("a swap under way: got %+v, %+v", c, p.Status.Candidate)
	}
	if meta.IsStatusConditionTrue(p.Status.Conditions, "Accepted") || meta.IsStatusConditionTrue(p.Status.Conditions, "RolledBack") {
		t.Errorf("conditions: got %+v", p.Status.Conditions)
	}
	agent := newPluginSync(slog.New(slog.DiscardHandler), "b", false, nil)
	if got := agent.restore(p); got != nil {
		t.Errorf("a node that never ran it: got %+v", got)
	}
}

// TestRevision: what does not matter does not make another revision.
func TestRevision(t *testing.T) {
	host := pluginhost.New(pluginhost.Config{Version: "v1"})
	a := hostSpec(swapped())
	b := a
	b.Config, b.Watch, b.Generation = []byte(`{"a": "<", "b": 1}`), 0, 9
	if host.Revision(a) != host.Revision(b) || len(host.Revision(a)) != 10 {
		t.Errorf("got %s and %s, want the same ten digits", host.Revision(a), host.Revision(b))
	}
	for name, change := range map[string]func(*pluginhost.Spec){
		"kind": func(s *pluginhost.Spec) { s.Kind = "y" }, "checksum": func(s *pluginhost.Spec) { s.SHA256 = "01" },
		"args": func(s *pluginhost.Spec) { s.Args = nil }, "config": func(s *pluginhost.Spec) { s.Config = nil },
		"limits": func(s *pluginhost.Spec) { s.Limits.Pids = 0 }, "rules": func(s *pluginhost.Spec) { s.Rules = nil },
	} {
		c := a
		change(&c)
		if host.Revision(c) == host.Revision(a) {
			t.Errorf("another %s is no other revision", name)
		}
	}
	built := pluginhost.Spec{Name: "dns", BuiltIn: true}
	if host.Revision(built) == pluginhost.New(pluginhost.Config{Version: "v2"}).Revision(built) {
		t.Error("a built-in plugin of another binary is no other revision")
	}
}

func TestPluginEvents(t *testing.T) {
	client := fake.NewClientset()
	events := newPluginEvents(client.CoreV1(), "node-1")
	defer events.stop()
	events.know(swapped())
	events.record("x", pluginhost.Event{Warning: true, Reason: pluginhost.EventRolledBack, Message: "revision 1 was rolled back"})
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return false, err
		}
		e := list.Items[0]
		if e.Type != "Warning" || e.Reason != "RolledBack" || e.InvolvedObject.Kind != "Plugin" || e.InvolvedObject.Name != "x" || e.InvolvedObject.UID != "u-1" {
			t.Errorf("got %+v", e)
		}
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNotAsked: a plugin whose hooks are not valid is not Ready, and the condition says which
// field of which hook is wrong.
func TestNotAsked(t *testing.T) {
	const fault = "hooks[0].rules: Required value: say what the hook is called for"
	server := newPluginSync(slog.New(slog.DiscardHandler), "a", true, nil)
	p := swapped()
	for _, c := range []struct {
		phase                pluginhost.Phase
		fault                string
		status               metav1.ConditionStatus
		reason, message, err string
	}{
		{pluginhost.PhaseRunning, "", metav1.ConditionTrue, "Running", "", ""},
		{pluginhost.PhaseRunning, fault, metav1.ConditionFalse, reasonNotAsked, fault, fault},
		{pluginhost.PhaseStarting, fault, metav1.ConditionFalse, "Starting", "", ""},
		{pluginhost.PhaseRunning, "", metav1.ConditionTrue, "Running", "", ""},
	} {
		server.apply(p, pluginhost.Status{Phase: c.phase})
		notAsked(p, c.fault)
		got := meta.FindStatusCondition(p.Status.Conditions, conditionReady)
		if got.Status != c.status || got.Reason != c.reason || got.Message != c.message || p.Status.LastError != c.err {
			t.Errorf("%s with fault %q: got %+v and error %q", c.phase, c.fault, got, p.Status.LastError)
		}
	}
}
