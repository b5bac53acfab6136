package plugins

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit"
)

// within has the plugins that make gives run within the host's process.
func within(plugin func(name string) kit.Plugin) func(*pluginhost.Config) {
	return func(c *pluginhost.Config) {
		c.Embedded = func(name string) (pluginhost.Embedded, bool) {
			return func(ctx context.Context, listener net.Listener, handover *os.File, output io.Writer) error {
				return kit.Embed(ctx, plugin(name), listener, handover, output)
			}, true
		}
	}
}

// startSwapsWithin is startSwaps, with built-in plugins in this process.
func startSwapsWithin(t *testing.T, change ...func(*pluginhost.Config)) *swaps {
	t.Helper()
	return startSwaps(t, append(change, within(swapPlugin))...)
}

// byPath is the plugin of the swap tests as a program of its own.
func byPath(t *testing.T, c swapConfig) pluginhost.Spec {
	t.Helper()
	s := swapSpec(c)
	s.BuiltIn, s.Path, s.Args = false, os.Args[0], []string{"plugin-swap", "worker"}
	s.Rules = []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	return s
}

// letGo ends what a stubborn plugin waits for.
func (s *swaps) letGo(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "d/plugins/worker/let-go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestEmbeddedLife: a plugin within the host's process is told the same, logs to the same
// place, ends in the same order and leaves nothing behind.
func TestEmbeddedLife(t *testing.T) {
	h := start(t, within(builtIn))
	h.ensure(t, worker1("x"))
	s := h.wait(t, "worker", pluginhost.PhaseRunning)
	if s.PID != os.Getpid() || !s.InProcess || s.Version != "test" || s.Protocol == 0 || s.Restarts != 0 || s.LastError != "" {
		t.Errorf("status: got %+v, want it in process %d", s, os.Getpid())
	}
	data := filepath.Join(h.dir, "d/plugins/worker")
	poll(t, "the plugin wrote what it was told", func() bool {
		raw, err := os.ReadFile(filepath.Join(data, "told"))
		return err == nil && strings.Contains(string(raw), "cluster.local")
	})
	poll(t, "its log is kept", func() bool {
		logs, err := h.Logs(t.Context(), "worker", -1, false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = logs.Close() }()
		text, err := io.ReadAll(logs)
		return err == nil && strings.Contains(string(text), `"msg":"Working","mode":"x"`)
	})
	h.mu.Lock()
	if len(h.accepted) != 1 || len(h.accepted[0].Rules) != 1 {
		t.Errorf("accepted: got %+v, want one description with one rule", h.accepted)
	}
	h.mu.Unlock()
	off := worker1("x")
	off.Enabled = false
	h.ensure(t, off)
	if s := h.wait(t, "worker", pluginhost.PhaseStopped); s.PID != 0 || s.InProcess {
		t.Errorf("status of a disabled one: got %+v", s)
	}
	for _, file := range []string{"drained", "ended"} {
		if _, err := os.Stat(filepath.Join(data, file)); err != nil {
			t.Errorf("the plugin was not %s: %v", file, err)
		}
	}
	h.ensure(t, worker1("x"))
	before := h.wait(t, "worker", pluginhost.PhaseRunning)
	if err := h.Restart(t.Context(), "worker"); err != nil {
		t.Fatal(err)
	}
	h.waitFor(t, "worker", "restarted", func(s pluginhost.Status) bool {
		return s.StartedAt.After(before.StartedAt) && s.Phase == pluginhost.PhaseRunning
	})
	h.stop()
	if left, _ := filepath.Glob(h.dir + "/r/host/*"); len(left) != 1 { // the lock
		t.Errorf("left over: %v", left)
	}
}

// TestEmbeddedCrashLoop: what cannot go on ends alone, is told, and is started again.
func TestEmbeddedCrashLoop(t *testing.T) {
	for mode, want := range map[string]string{"error": "no luck today", "panic": "panic: out of order"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			h := start(t, within(builtIn))
			h.ensure(t, worker1(mode))
			poll(t, "three restarts", func() bool { s, _ := h.Status("worker"); return s.Restarts >= 3 })
			s := h.wait(t, "worker", pluginhost.PhaseBackOff)
			if !strings.Contains(s.LastError, want) || strings.Contains(s.LastError, "goroutine") {
				t.Errorf("last error: got %q, want %q and no stack", s.LastError, want)
			}
			h.ensure(t, worker1(""))
			h.wait(t, "worker", pluginhost.PhaseRunning)
		})
	}
}

// TestEmbeddedRefused: a candidate within the process that is no good changes nothing.
func TestEmbeddedRefused(t *testing.T) {
	mode := func(mode string) func(*pluginhost.Spec) {
		return func(s *pluginhost.Spec) { s.Config = swapJSON(swapConfig{Mode: mode, Mark: "new"}) }
	}
	for _, c := range []struct {
		name   string
		change func(*pluginhost.Spec)
		want   string
	}{
		{"limits", func(s *pluginhost.Spec) { s.Limits.Memory = 64 << 20 }, "spec.resources.limits: the plugin runs in the kernel's process"},
		{"arguments", func(s *pluginhost.Spec) { s.Args = []string{"-v"} }, "spec.args: the plugin runs in the kernel's process"},
		{"another kind", func(s *pluginhost.Spec) { s.Kind = "another" }, `spec.kind: the program is of kind "example", not "another"`},
		{"refused by the schema", func(s *pluginhost.Spec) { s.Config = []byte(`{"mood":1}`) }, "spec.config.mood"},
		{"refused by itself", mode("invalid"), `spec.config: mode: Invalid value: "invalid": just so`},
		{"cannot be configured", mode("error"), "configure: this machine is not good enough"},
		{"fails in standby", mode("fail"), "no luck in standby"},
		{"never at standby", mode("cold"), "it did not get to STANDBY within 2s: it reports STARTING"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwapsWithin(t, short)
			before := h.good(t)
			spec := swapSpec(swapConfig{Mark: "new"})
			c.change(&spec)
			h.ensure(t, spec)
			s := h.progress(t, pluginhost.ProgressRefused)
			if s.Phase != pluginhost.PhaseRunning || s.StartedAt != before.StartedAt || s.Revision != before.Revision {
				t.Errorf("status: got %+v, want that of before", s)
			}
			if !strings.Contains(s.LastError, c.want) || !strings.Contains(s.ProgressMessage, c.want) {
				t.Errorf("status: got %q and %q, want %q", s.LastError, s.ProgressMessage, c.want)
			}
			if n, message := h.count(pluginhost.EventRefused); n != 1 || !strings.Contains(message, c.want) {
				t.Errorf("events: got %d, %q, want one with %q", n, message, c.want)
			}
			if got := h.marks(t); slices.Contains(got, "begin new") || slices.Contains(got, "end old") {
				t.Errorf("who acted: got %q, want the old one alone", got)
			}
		})
	}
}

// TestEmbeddedLimits: a plugin with limits is not started within the process at all.
func TestEmbeddedLimits(t *testing.T) {
	t.Parallel()
	h := startSwapsWithin(t)
	spec := swapSpec(swapConfig{Mark: "old"})
	spec.Limits.Pids = 10
	h.ensure(t, spec)
	if s := h.wait(t, "worker", pluginhost.PhaseFailed); !strings.Contains(s.LastError, "--plugins-in-process") || s.InProcess {
		t.Errorf("status: got %+v, want an error that names the flag", s)
	}
	h.ensure(t, swapSpec(swapConfig{Mark: "old"}))
	h.wait(t, "worker", pluginhost.PhaseRunning)
}

// TestEmbeddedRolledBack: what is bad after it has taken over gives way, whether it or the
// one before is within the process or in one of its own.
func TestEmbeddedRolledBack(t *testing.T) {
	for _, c := range []struct{ name, mode, want string }{
		{"fails when activated", "failed", "no luck today"},
		{"panics", "panic", "panic: out of order"},
		{"is never ready", "unready", "it was not ready within 2s: it reports STARTING: still looking for the door"},
		{"is degraded", "degrade", "it is degraded: one leg is missing"},
	} {
		for _, oldWithin := range []bool{true, false} {
			for _, newWithin := range []bool{true, false} {
				if (!oldWithin || !newWithin) && (c.mode != "panic" || oldWithin == newWithin) {
					continue // one of them is enough to show that it makes no difference
				}
				name := c.name + map[bool]string{true: ", new within", false: ", new outside"}[newWithin] +
					map[bool]string{true: ", old within", false: ", old outside"}[oldWithin]
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					h := startSwapsWithin(t, short)
					spec := func(within bool, c swapConfig) pluginhost.Spec {
						if within {
							return swapSpec(c)
						}
						return byPath(t, c)
					}
					h.ensure(t, spec(oldWithin, swapConfig{Mark: "old"}))
					before := h.wait(t, "worker", pluginhost.PhaseRunning)
					h.ensure(t, spec(newWithin, swapConfig{Mode: c.mode, Mark: "new"}))
					if c.mode == "degrade" {
						h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
							return s.Progress == pluginhost.ProgressWatching && s.Phase == pluginhost.PhaseRunning
						})
						if err := os.WriteFile(filepath.Join(h.dir, "d/plugins/worker/degrade"), nil, 0o600); err != nil {
							t.Fatal(err)
						}
					}
					h.progress(t, pluginhost.ProgressRolledBack)
					s := h.wait(t, "worker", pluginhost.PhaseRunning)
					if s.StartedAt != before.StartedAt || s.InProcess != oldWithin || s.Revision != before.Revision || !strings.Contains(s.LastError, c.want) {
						t.Errorf("status: got %+v, want the one before, and %q", s, c.want)
					}
					got := h.marks(t)
					if !slices.Equal(got[:3], []string{"begin old", "end old", "begin new"}) || got[len(got)-1] != "begin old" {
						t.Errorf("who acted: got %q", got)
					}
				})
			}
		}
	}
}

// TestEmbeddedSwapped: swaps within the process, out of it and back into it while others
// connect; nobody is turned away, and never do two act.
func TestEmbeddedSwapped(t *testing.T) {
	t.Parallel()
	h := startSwapsWithin(t)
	address := freePort(t)
	spec := func(mark string, watch time.Duration) pluginhost.Spec {
		s := swapSpec(swapConfig{Mark: mark, Listen: address})
		s.Watch = watch
		return s
	}
	h.ensure(t, spec("0", 0))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	seen, stop := askAll(t, address)
	var gaps []time.Duration
	for i, mark := range []string{"1", "2", "out 3", "4", "5", "out 6", "out 7", "8"} {
		next := spec(mark, time.Duration(i%2)*time.Hour) // every second one is watched until the next comes
		if strings.HasPrefix(mark, "out") {
			next = byPath(t, swapConfig{Mark: mark, Listen: address})
			next.Watch = time.Duration(i%2) * time.Hour
		}
		h.ensure(t, next)
		s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
			return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
		})
		if s.InProcess == strings.HasPrefix(mark, "out") || s.InProcess != (s.PID == os.Getpid()) {
			t.Errorf("status of %s: got %+v", mark, s)
		}
		gaps = append(gaps, s.History.Revisions[0].Gap)
		poll(t, "it answers", func() bool { return seen(mark) })
	}
	stop()
	t.Logf("gaps: %v", gaps)
	acting := ""
	for _, line := range h.marks(t) {
		what, who, _ := strings.Cut(line, " ")
		switch {
		case what == "begin" && acting == "":
			acting = who
		case what == "end" && acting == who:
			acting = ""
		default:
			t.Fatalf("two act at a time: %q", h.marks(t))
		}
	}
}

// TestEmbeddedDoesNotGiveWay: nothing can end one that hangs, so what is to replace it
// waits, and status and event say so; when it ends after all, the other one takes over.
func TestEmbeddedDoesNotGiveWay(t *testing.T) {
	t.Parallel()
	h := startSwapsWithin(t, short, func(c *pluginhost.Config) { c.Periods.End = 100 * time.Millisecond })
	h.ensure(t, swapSpec(swapConfig{Mode: "stubborn", Mark: "old"}))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	next := byPath(t, swapConfig{Mark: "new"})
	h.ensure(t, next)
	s := h.wait(t, "worker", pluginhost.PhaseFailed)
	if !strings.Contains(s.LastError, "restart the kernel") || s.Revision == h.Revision(next) {
		t.Errorf("status: got %+v, want the one before, which hangs", s)
	}
	if n, message := h.count(pluginhost.EventHanging); n != 1 || !strings.Contains(message, "a part of the kernel's process") {
		t.Errorf("events: got %d, %q", n, message)
	}
	if got := h.marks(t); slices.Contains(got, "begin new") {
		t.Errorf("who acted: got %q, want nobody besides the one that hangs", got)
	}
	h.letGo(t)
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
	})
	if got := h.marks(t); !slices.Equal(got, []string{"begin old", "end old", "begin new"}) {
		t.Errorf("who acted: got %q", got)
	}
}

// TestEmbeddedHangs: the other places at which one can hang.
func TestEmbeddedHangs(t *testing.T) {
	soon := func(c *pluginhost.Config) { c.Periods.End = 100 * time.Millisecond }
	t.Run("in Configure", func(t *testing.T) {
		t.Parallel()
		h := startSwapsWithin(t, short, soon)
		before := h.good(t)
		h.ensure(t, swapSpec(swapConfig{Mode: "stubborn-new", Mark: "new"}))
		s := h.progress(t, pluginhost.ProgressRefused)
		if s.StartedAt != before.StartedAt || s.Phase != pluginhost.PhaseRunning || !strings.Contains(s.LastError, "restart the kernel") ||
			!strings.Contains(s.LastError, "no answer for 2s") {
			t.Errorf("status: got %+v, want the one before, and that the other one hangs", s)
		}
		h.letGo(t)
	})
	t.Run("and the host ends", func(t *testing.T) {
		t.Parallel()
		if testing.Short() {
			t.Skip("SKIPPED: takes the 7 seconds that a plugin has to stop (-short)")
		}
		h := startSwapsWithin(t, short, soon)
		h.ensure(t, swapSpec(swapConfig{Mode: "stubborn", Mark: "old"}))
		h.wait(t, "worker", pluginhost.PhaseRunning)
		h.stop()
		h.letGo(t)
		poll(t, "it has ended", func() bool { return slices.Contains(h.marks(t), "end old") })
	})
}

// TestEmbeddedRevision: what runs within the process is another revision than the same in
// a process, so that what is known of one is not taken for the other.
func TestEmbeddedRevision(t *testing.T) {
	t.Parallel()
	in, out := startSwapsWithin(t), startSwaps(t)
	spec := swapSpec(swapConfig{Mark: "old"})
	if in.Revision(spec) == out.Revision(spec) {
		t.Error("the revisions are the same")
	}
	if spec := byPath(t, swapConfig{}); in.Revision(spec) != out.Revision(spec) {
		t.Error("the revisions of a program by path differ")
	}
}
