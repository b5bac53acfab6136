package plugins

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/core/pluginhost"
)

// TestFrozen: a process that is stopped (SIGSTOP) keeps its connection and says nothing. The
// one before it comes back, whenever that happens.
func TestFrozen(t *testing.T) {
	for _, c := range []struct {
		name, mode string
		periods    func(*pluginhost.Config)
		freeze     func(t *testing.T, h *swaps, spec pluginhost.Spec)
		progress   string
		want       string
	}{
		// before or after its answer to Configure: "no answer for 2s", or "not get to STANDBY within 2s"
		{"while it gets warm", "freeze", short, nil, pluginhost.ProgressRefused, " 2s"},
		{"at STANDBY, before it answers Activate", "freeze-active", func(c *pluginhost.Config) {
			short(c)
			c.Periods.Activate = 2 * time.Second
		}, nil, pluginhost.ProgressRolledBack, "activate: no answer for 2s"},
		{"after it has taken over", "", func(c *pluginhost.Config) {
			c.Periods.Silence = 15 * time.Second // reports come every five
			c.Periods.Deactivate = time.Second
		}, func(t *testing.T, h *swaps, spec pluginhost.Spec) {
			s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
				return s.Revision == h.Revision(spec) && s.Phase == pluginhost.PhaseRunning
			})
			if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}, pluginhost.ProgressRolledBack, "the plugin hangs: no report for 15s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t, c.periods)
			before := h.good(t)
			spec := swapSpec(swapConfig{Mode: c.mode, Mark: "new"})
			h.ensure(t, spec)
			if c.freeze != nil {
				c.freeze(t, h, spec)
			}
			h.progress(t, c.progress)
			s := h.wait(t, "worker", pluginhost.PhaseRunning)
			if s.PID != before.PID || s.Revision != before.Revision || !strings.Contains(s.LastError, c.want) {
				t.Errorf("status: got %+v, want the process of before, and %q", s, c.want)
			}
			poll(t, "the frozen one is gone", func() bool { return h.processes(t) == 1 })
		})
	}
}

// TestPluginFolders: a program by path runs when it lies in a plugin folder, in which nobody
// else can write.
func TestPluginFolders(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"in", "in/deep", "out", "open"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o777); err != nil { // Mkdir heeds the umask
		t.Fatal(err)
	}
	for _, name := range []string{"in/plugin", "in/deep/plugin", "out/plugin", "open/plugin"} {
		copyProgram(t, os.Args[0], filepath.Join(dir, name))
	}
	for link, to := range map[string]string{"out/inwards": "../in/plugin", "in/outwards": "../out/plugin"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ path, want string }{
		{"in/plugin", ""},
		{"in/deep/plugin", ""},
		{"out/inwards", ""},
		{"in/../in/plugin", ""},
		{"out/plugin", "out/plugin lies in no plugin folder ("},
		{"in/outwards", "in/outwards lies in no plugin folder ("},
		{"in/../out/plugin", "lies in no plugin folder ("},
		{"open/plugin", "open can be written by others than its owner (mode 0777): chmod go-w"},
		{"in/missing", "no such file"},
	} {
		t.Run(strings.ReplaceAll(c.path, "/", "_"), func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t, func(cfg *pluginhost.Config) {
				cfg.PluginDirs = []string{filepath.Join(dir, "in"), filepath.Join(dir, "open") + "/"}
			})
			before := h.good(t)
			spec := swapSpec(swapConfig{Mark: "new"})
			spec.BuiltIn, spec.Path, spec.SHA256 = false, dir+"/"+c.path, sum(t, os.Args[0])
			spec.Args, spec.Rules = []string{"plugin-swap", "worker"}, swapRules
			h.ensure(t, spec)
			if c.want == "" {
				h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
					return s.Revision == h.Revision(spec) && s.Phase == pluginhost.PhaseRunning
				})
				return
			}
			if s := h.progress(t, pluginhost.ProgressRefused); s.PID != before.PID || !strings.Contains(s.LastError, c.want) {
				t.Errorf("status: got %+v, want the process of before, and %q", s, c.want)
			}
		})
	}
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRulesWhileTwoRun: each of two processes has its rights as long as it is there, and
// what only the first one needed is taken back with its end.
func TestRulesWhileTwoRun(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	h.good(t)
	next := swapSpec(swapConfig{Mark: "new"})
	next.Args = []string{"rules"}
	h.ensure(t, next)
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
	})
	granted := func() (all []string) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, d := range h.accepted {
			text := ""
			for _, r := range d.Rules {
				text += fmt.Sprintf("%v%v", r.Verbs, r.Resources)
			}
			all = append(all, text)
		}
		return all
	}
	if got, want := granted(), []string{"[get][pods]", "[get][pods][list][nodes]"}; !slices.Equal(got, want) {
		t.Errorf("rules while both are there: got %q, want %q", got, want)
	}
	next.Watch = 0 // ends the period, and with it the process before
	next.Config = swapJSON(swapConfig{Mark: "newer"})
	h.ensure(t, next)
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool { return s.Revision == h.Revision(next) })
	poll(t, "what nobody needs is taken back", func() bool {
		got := granted()
		return got[len(got)-1] == "[list][nodes]"
	})
}

// TestLimitsRefused: a machine without cgroups runs the plugin all the same, and an event
// names each limit that is not in force.
func TestLimitsRefused(t *testing.T) {
	t.Parallel()
	h := startSwaps(t, func(c *pluginhost.Config) { c.CgroupParent = "none" })
	h.good(t)
	next := swapSpec(swapConfig{Mark: "new"})
	next.Limits = pluginhost.Limits{Memory: 512 << 20, MilliCPU: 2000, Pids: 1000}
	h.ensure(t, next)
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
	})
	n, message := h.count(pluginhost.EventLimitNotSet)
	for _, want := range []string{"memory", "cpu", "pids"} {
		if n != 1 || !strings.Contains(message, "spec.resources.limits."+want+" is not in force") {
			t.Errorf("events: got %d, %q, want one about %s", n, message, want)
		}
	}
}

// TestStreamsLinger: a process that was replaced stays beyond the watch period until the
// streams that others have open have ended, and is in nobody's way.
func TestStreamsLinger(t *testing.T) {
	for _, c := range []struct {
		name  string
		watch time.Duration
		end   func(t *testing.T, h *swaps)
	}{
		{"to their end, without a watch period", 0, hangUp},
		{"to their end, after a watch period", time.Second, hangUp},
		{"until the plugin is disabled", 0, func(t *testing.T, h *swaps) {
			off := swapSpec(swapConfig{Mark: "3"})
			off.Enabled = false
			h.ensure(t, off)
		}},
		{"until the host ends", 0, func(_ *testing.T, h *swaps) { h.stop() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t)
			spec := swapSpec(swapConfig{Mode: "streams", Mark: "1"})
			h.ensure(t, spec)
			first := h.wait(t, "worker", pluginhost.PhaseRunning)
			for _, mark := range []string{"2", "3"} { // two swaps, while the first one lingers
				next := swapSpec(swapConfig{Mark: mark})
				next.Watch = c.watch
				h.ensure(t, next)
				h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
					return s.Revision == h.Revision(next) && s.Progress == pluginhost.ProgressComplete && s.Phase == pluginhost.PhaseRunning
				})
			}
			poll(t, "the second one is gone", func() bool { return h.processes(t) == 2 })
			if gone(first.PID) {
				t.Error("the first one is gone, and its stream with it")
			}
			c.end(t, h)
			poll(t, "the first one has ended", func() bool { return gone(first.PID) })
			if got := h.marks(t); slices.Contains(got, "cut 1") != (c.name[:2] != "to") {
				t.Errorf("the stream was cut: got %q", got)
			}
		})
	}
}

func hangUp(t *testing.T, h *swaps) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "d/plugins/worker/hangup"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStreamsAreLimited: after their time the process ends with what is still open.
func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	h := startSwaps(t, func(c *pluginhost.Config) { c.Periods.Streams = time.Second })
	h.ensure(t, swapSpec(swapConfig{Mode: "streams", Mark: "old"}))
	before := h.wait(t, "worker", pluginhost.PhaseRunning)
	next := swapSpec(swapConfig{Mark: "new"})
	next.Watch = 0
	h.ensure(t, next)
	poll(t, "the one before has ended", func() bool { return gone(before.PID) })
	if got := h.marks(t); !slices.Contains(got, "cut old") {
		t.Errorf("who acted: got %q, want the stream cut", got)
	}
}

// stream has one stream open until it is told to hang up, or the process ends.
func (s *swapper) stream() {
	end := s.env.Stream()
	go func() { // ends with the process
		defer end()
		if !s.told(s.env.Life(), "hangup") {
			s.note("cut")
		}
	}()
}
