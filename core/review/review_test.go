package review

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHooksAreChecked(t *testing.T) {
	good := func(change func(*admissionv1.Hook)) []*admissionv1.Hook {
		h := &admissionv1.Hook{
			Name: "a", Phase: admissionv1.Phase_PHASE_VALIDATING, SideEffects: admissionv1.SideEffects_SIDE_EFFECTS_NONE,
			Rules: []*admissionv1.Rule{{Operations: []admissionv1.Operation{admissionv1.Operation_OPERATION_CREATE}, ApiGroups: []string{""}, ApiVersions: []string{"v1"}, Resources: []string{"pods"}}},
		}
		change(h)
		return []*admissionv1.Hook{h}
	}
	for _, c := range []struct {
		name  string
		hooks []*admissionv1.Hook
		want  string
	}{
		{"good", good(func(*admissionv1.Hook) {}), ""},
		{"with everything", good(func(h *admissionv1.Hook) {
			h.Timeout, h.NamespaceSelector, h.ObjectSelector = durationpb.New(time.Second), "a in (b,c),!d", "x=y"
			h.MatchConditions = []*admissionv1.MatchCondition{{Name: "x", Expression: "object.metadata.name != 'a'"}}
			h.Rules[0].Scope = admissionv1.Scope_SCOPE_NAMESPACED
		}), ""},
		{"no name", good(func(h *admissionv1.Hook) { h.Name = "" }), `hooks[0].name: Invalid value: ""`},
		{"no phase", good(func(h *admissionv1.Hook) { h.Phase = 0 }), "hooks[0].phase"},
		{"no side effects", good(func(h *admissionv1.Hook) { h.SideEffects = 0 }), "hooks[0].side_effects"},
		{"side effects of the future", good(func(h *admissionv1.Hook) { h.SideEffects = 9 }), "hooks[0].side_effects"},
		{"a policy of the future", good(func(h *admissionv1.Hook) { h.FailurePolicy = 9 }), "hooks[0].failure_policy"},
		{"too short", good(func(h *admissionv1.Hook) { h.Timeout = durationpb.New(time.Millisecond) }), `hooks[0].timeout: Invalid value: "1ms"`},
		{"too long", good(func(h *admissionv1.Hook) { h.Timeout = durationpb.New(time.Minute) }), "hooks[0].timeout"},
		{"no rules", good(func(h *admissionv1.Hook) { h.Rules = nil }), "hooks[0].rules: Required value"},
		{"an empty rule", good(func(h *admissionv1.Hook) { h.Rules[0] = &admissionv1.Rule{} }), "hooks[0].rules[0].operations: Required value"},
		{"no operation", good(func(h *admissionv1.Hook) { h.Rules[0].Operations[0] = 0 }), "hooks[0].rules[0].operations[0]"},
		{"a bad selector", good(func(h *admissionv1.Hook) { h.ObjectSelector = "a in (" }), "hooks[0].object_selector"},
		{"a bad condition", good(func(h *admissionv1.Hook) {
			h.MatchConditions = []*admissionv1.MatchCondition{{Name: "x", Expression: "object.("}}
		}), "hooks[0].match_conditions[0].expression"},
		{"the same name twice", append(good(func(*admissionv1.Hook) {}), good(func(*admissionv1.Hook) {})...), `hooks[1].name: Duplicate value: "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			hooks, err := newHooks(&plugin{name: "p"}, c.hooks)
			if c.want == "" {
				if err != nil || len(hooks) != len(c.hooks) {
					t.Errorf("got %v, %v, want the hooks", hooks, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestDamagedRecord: what a plugin asked for is not forgotten silently.
func TestDamagedRecord(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": `{"kind":`, "no kind": `{}`, "another kind": `{"kind":"dns"}`,
		"no hooks": `{"kind":"admission","socket":"/x","hooks":7}`, "bad hooks": `{"kind":"admission","socket":"/x","hooks":{"hooks":[{"name":"A"}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "p.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := New(slog.New(slog.DiscardHandler), dir); err == nil || !strings.Contains(err.Error(), "plugin p") || !strings.Contains(err.Error(), "p.json") {
				t.Errorf("got %v, want an error with plugin and file", err)
			}
		})
	}
}

// TestEmptySet: nothing is asked, and it ends.
func TestEmptySet(t *testing.T) {
	s, err := New(slog.New(slog.DiscardHandler), filepath.Join(t.TempDir(), "not-there"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Authenticator(nil).AuthenticateToken(t.Context(), "x"); ok || err != nil {
		t.Errorf("authenticator: got %t, %v", ok, err)
	}
	s.Want("x", "dns", "/x")
	s.Running("x", "1", nil)
	s.Settle(t.Context(), "x")
	if !s.Empty() {
		t.Error("a plugin of a kind that is not asked is in the set")
	}
	s.Close()
	s.Want("y", Admission, "/y")
	if !s.Empty() {
		t.Error("a plugin was taken after the end")
	}
}

func BenchmarkNoPlugin(b *testing.B) {
	s, err := New(slog.New(slog.DiscardHandler), "")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	a, ctx := s.Authorizer(), b.Context()
	for b.Loop() {
		if _, _, err := a.Authorize(ctx, nil); err != nil {
			b.Fatal(err)
		}
	}
}
