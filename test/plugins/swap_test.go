package plugins

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/test/need"
)

// swaps is a host with the plugin of the swap tests.
type swaps struct {
	*harness
	mu     sync.Mutex // guards events
	events []pluginhost.Event
}

func startSwaps(t *testing.T, change ...func(*pluginhost.Config)) *swaps {
	t.Helper()
	s := &swaps{}
	s.harness = start(t, append(change, func(c *pluginhost.Config) {
		c.BuiltIn = func(name string) (pluginhost.Command, bool) {
			return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-swap", name}}, true
		}
		c.OnEvent = func(_ string, e pluginhost.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		}
	})...)
	return s
}

// count is how many events of a reason there were; message is the last one's.
func (s *swaps) count(reason string) (n int, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Reason == reason {
			n++
			message = e.Message
		}
	}
	return n, message
}

// swapSpec is a plugin that behaves as told.
func swapSpec(c swapConfig) pluginhost.Spec {
	return pluginhost.Spec{Name: "worker", Kind: "example", BuiltIn: true, Enabled: true, Config: swapJSON(c), Watch: time.Hour}
}

// good runs the plugin that the tests begin with.
func (s *swaps) good(t *testing.T) pluginhost.Status {
	t.Helper()
	s.ensure(t, swapSpec(swapConfig{Mark: "old"}))
	return s.wait(t, "worker", pluginhost.PhaseRunning)
}

func (s *swaps) progress(t *testing.T, want string) pluginhost.Status {
	t.Helper()
	return s.waitFor(t, "worker", want, func(st pluginhost.Status) bool { return st.Progress == want })
}

// ledger is who began and ended to act, in order.
func (s *swaps) ledger(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "d/plugins/worker/ledger"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// marks are the ledger's lines without process numbers.
func (s *swaps) marks(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, line := range s.ledger(t) {
		out = append(out, line[:strings.LastIndexByte(line, ' ')])
	}
	return out
}

// processes are the records of processes that the host has.
func (s *swaps) processes(t *testing.T) int {
	t.Helper()
	records, err := filepath.Glob(filepath.Join(s.dir, "r/host/worker.*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return len(records)
}

// short makes the periods short in which nothing comes that a test waits for.
func short(c *pluginhost.Config) {
	c.Periods = pluginhost.Periods{Configure: 2 * time.Second, Standby: 2 * time.Second, Deactivate: 2 * time.Second, Ready: 2 * time.Second}
}

// TestRefused: a candidate that is no good never takes over; the one that runs notices
// nothing, and status, history and event say why.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := func(path string) func(*pluginhost.Spec) {
		return func(s *pluginhost.Spec) { s.BuiltIn, s.Path, s.SHA256, s.Config = false, path, sum(t, path), nil }
	}
	mode := func(mode string) func(*pluginhost.Spec) {
		return func(s *pluginhost.Spec) { s.Config = swapJSON(swapConfig{Mode: mode, Mark: "new"}) }
	}
	args := func(arg string) func(*pluginhost.Spec) { return func(s *pluginhost.Spec) { s.Args = []string{arg} } }
	for _, c := range []struct {
		name   string
		change func(*pluginhost.Spec)
		want   string
	}{
		{"ends at once", args("exit"), "(exit status 4): this will not do"},
		{"is no plugin", file(script("talks", "#!/bin/sh\necho Hello World\n")), `printed "Hello World" in place of the handshake`},
		{"cannot be executed", file(script("noshell", "#!/no/such/shell\n")), "no such file"},
		{"wrong checksum", func(s *pluginhost.Spec) {
			file(script("sum", "#!/bin/sh\n"))(s)
			s.SHA256 = strings.Repeat("0", 64)
		}, "spec.source.sha256"},
		{"another protocol", args("version"), "speaks version 99 of the plugin contract"},
		{"another name", args("name"), `metadata.name: the program is plugin "somebody-else", not "worker"`},
		{"another kind", args("kind"), `spec.kind: the program is of kind "another", not "example"`},
		{"refused by the schema", func(s *pluginhost.Spec) { s.Config = []byte(`{"mood":1}`) }, "spec.config.mood"},
		{"refused by itself", mode("invalid"), `spec.config: mode: Invalid value: "invalid": just so`},
		{"cannot be configured", mode("error"), "configure: this machine is not good enough"},
		{"hangs in Configure", mode("hang"), "configure: the plugin hangs: no answer for 2s"},
		{"fails in standby", mode("fail"), "no luck in standby"},
		{"never at standby", mode("cold"), "it did not get to STANDBY within 2s: it reports STARTING"},
		{"rules that nobody accepted", func(s *pluginhost.Spec) {
			file(os.Args[0])(s)
			s.Args = []string{"plugin-swap", "worker"}
		}, "spec.rules: the program declares more than is accepted: get pods"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t, short)
			before := h.good(t)
			spec := swapSpec(swapConfig{Mark: "new"})
			spec.Generation = 2
			c.change(&spec)
			h.ensure(t, spec)
			s := h.progress(t, pluginhost.ProgressRefused)
			if s.Phase != pluginhost.PhaseRunning || s.PID != before.PID || s.Revision != before.Revision || s.Candidate.Revision != "" {
				t.Errorf("status: got %+v, want that of before", s)
			}
			for what, text := range map[string]string{"last error": s.LastError, "progress": s.ProgressMessage, "history": s.History.Revisions[0].Message} {
				if !strings.Contains(text, c.want) {
					t.Errorf("%s: got %q, want %q", what, text, c.want)
				}
			}
			if r := s.History.Revisions; len(r) != 2 || r[0].Outcome != pluginhost.OutcomeRefused || r[0].Generation != 2 ||
				r[0].Revision != h.Revision(spec) || r[1].Outcome != pluginhost.OutcomeActive || r[1].Revision != before.Revision {
				t.Errorf("history: got %+v", r)
			}
			if n, message := h.count(pluginhost.EventRefused); n != 1 || !strings.Contains(message, c.want) {
				t.Errorf("events: got %d, %q, want one with %q", n, message, c.want)
			}
			if got := h.marks(t); slices.Contains(got, "begin new") || slices.Contains(got, "end old") {
				t.Errorf("who acted: got %q, want the old one alone", got)
			}
			poll(t, "the candidate is gone", func() bool { return h.processes(t) == 1 })
			if strings.Contains(c.name, "accepted") != (s.NotAccepted != "") {
				t.Errorf("not accepted: got %q", s.NotAccepted)
			}
		})
	}
}

// TestRefusedIsNotTriedAgain: until the spec changes, or somebody asks.
func TestRefusedIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	before := h.good(t)
	if err := h.SwapAgain("worker"); err == nil {
		t.Error("again, with nothing refused: got nil, want an error")
	}
	bad := swapSpec(swapConfig{Mode: "error"})
	for range 2 {
		h.ensure(t, bad)
		h.progress(t, pluginhost.ProgressRefused)
	}
	if n, _ := h.count(pluginhost.EventSwapStarted); n != 1 {
		t.Errorf("%d candidates were started, want one", n)
	}
	if err := h.SwapAgain("worker"); err != nil {
		t.Fatal(err)
	}
	poll(t, "it is tried again", func() bool { n, _ := h.count(pluginhost.EventRefused); return n == 2 })
	s := h.progress(t, pluginhost.ProgressRefused)
	if len(s.History.Revisions) != 2 {
		t.Errorf("history: got %+v, want two revisions", s.History.Revisions)
	}
	h.ensure(t, swapSpec(swapConfig{Mark: "old"}))
	s = h.progress(t, pluginhost.ProgressComplete)
	if s.PID != before.PID {
		t.Errorf("back to what runs: got process %d, want %d", s.PID, before.PID)
	}
}

// TestRolledBack: what is bad after it has taken over gives way to the process before it.
func TestRolledBack(t *testing.T) {
	for _, c := range []struct {
		name, mode string
		spoil      func(t *testing.T, h *swaps, s pluginhost.Status)
		want       string
	}{
		{"fails when activated", "failed", nil, "no luck today"},
		{"panics", "panic", nil, "panic: out of order"},
		{"is never ready", "unready", nil, "it was not ready within 2s: it reports STARTING: still looking for the door"},
		{"is degraded", "degrade", func(t *testing.T, h *swaps, _ pluginhost.Status) {
			if err := os.WriteFile(filepath.Join(h.dir, "d/plugins/worker/degrade"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "it is degraded: one leg is missing"},
		{"dies", "", func(t *testing.T, _ *swaps, s pluginhost.Status) {
			if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, "the process ended (signal: killed)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t, short)
			before := h.good(t)
			spec := swapSpec(swapConfig{Mode: c.mode, Mark: "new"})
			h.ensure(t, spec)
			if c.spoil != nil {
				s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
					return s.Progress == pluginhost.ProgressWatching && s.Phase == pluginhost.PhaseRunning
				})
				if s.Revision != h.Revision(spec) || s.Candidate.Phase != pluginhost.CandidateWatched {
					t.Errorf("status of the watched: got %+v", s)
				}
				c.spoil(t, h, s)
			}
			h.progress(t, pluginhost.ProgressRolledBack)
			s := h.wait(t, "worker", pluginhost.PhaseRunning)
			if s.PID != before.PID || s.Revision != before.Revision || !strings.Contains(s.LastError, c.want) || !strings.Contains(s.ProgressMessage, c.want) {
				t.Errorf("status: got %+v, want the process of before, and %q", s, c.want)
			}
			if r := s.History.Revisions; len(r) != 2 || r[0].Outcome != pluginhost.OutcomeRolledBack || !strings.Contains(r[0].Message, c.want) || r[0].Gap < 0 ||
				r[1].Outcome != pluginhost.OutcomeActive || !r[1].End.IsZero() {
				t.Errorf("history: got %+v", r)
			}
			if n, message := h.count(pluginhost.EventRolledBack); n != 1 || !strings.Contains(message, c.want) {
				t.Errorf("events: got %d, %q, want one with %q", n, message, c.want)
			}
			poll(t, "the bad one is gone", func() bool { return h.processes(t) == 1 })
			got := h.marks(t)
			if !slices.Equal(got[:3], []string{"begin old", "end old", "begin new"}) || got[len(got)-1] != "begin old" {
				t.Errorf("who acted: got %q", got)
			}
		})
	}
}

// TestRolledBackWithoutStandby: when the process before has gone too, a new one is started.
func TestRolledBackWithoutStandby(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	before := h.good(t)
	h.ensure(t, swapSpec(swapConfig{Mark: "new"}))
	s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Progress == pluginhost.ProgressWatching && s.Phase == pluginhost.PhaseRunning
	})
	for _, pid := range []int{before.PID, s.PID} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	h.progress(t, pluginhost.ProgressRolledBack)
	s = h.waitFor(t, "worker", "back", func(s pluginhost.Status) bool { return s.Phase == pluginhost.PhaseRunning })
	if s.Revision != before.Revision {
		t.Errorf("status: got %+v, want revision %s", s, before.Revision)
	}
}

// TestSwapped: many swaps while others connect; nobody is turned away, and never do two
// processes act.
func TestSwapped(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
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
	pids := sets.New[int]()
	for i, mark := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		next := spec(mark, time.Duration(i%2)*time.Hour) // every second one is watched until the next comes
		h.ensure(t, next)
		s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
			return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
		})
		gaps = append(gaps, s.History.Revisions[0].Gap)
		pids.Insert(s.PID)
		poll(t, "it answers", func() bool { return seen(mark) })
	}
	stop()
	t.Logf("gaps: %v", gaps)
	if len(pids) != 8 {
		t.Errorf("processes: got %d, want 8", len(pids))
	}
	acting := ""
	for _, line := range h.ledger(t) {
		what, who, _ := strings.Cut(line, " ")
		switch {
		case what == "begin" && acting == "":
			acting = who
		case what == "end" && acting == who:
			acting = ""
		default:
			t.Fatalf("two act at a time: %q", h.ledger(t))
		}
	}
	if n, _ := h.count(pluginhost.EventSwapped); n != 8 {
		t.Errorf("%d events of swaps, want 8", n)
	}
	s, _ := h.Status("worker")
	if r := s.History.Revisions; len(r) != 9 || r[0].Outcome != pluginhost.OutcomeActive || r[1].Outcome != pluginhost.OutcomeReplaced || r[8].Gap >= 0 {
		t.Errorf("history: got %+v", r)
	}
}

// TestDoesNotGiveWay: an active one that does not answer Deactivate is killed, and the
// candidate takes over.
func TestDoesNotGiveWay(t *testing.T) {
	t.Parallel()
	h := startSwaps(t, short)
	h.ensure(t, swapSpec(swapConfig{Mode: "stuck", Mark: "old"}))
	before := h.wait(t, "worker", pluginhost.PhaseRunning)
	h.ensure(t, swapSpec(swapConfig{Mark: "new"}))
	s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool { return s.PID != before.PID && s.Phase == pluginhost.PhaseRunning })
	if !gone(before.PID) {
		t.Error("the one before is still there")
	}
	if n, message := h.count(pluginhost.EventKilling); n != 1 || !strings.Contains(message, "no answer for 2s") {
		t.Errorf("events: got %d, %q", n, message)
	}
	t.Logf("gap: %s", s.History.Revisions[0].Gap)
}

// TestChangesInTheMiddle: while a candidate hangs, another one is wanted, or none.
func TestChangesInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, h *swaps, before pluginhost.Status)
		left   int
	}{
		{"another spec", func(t *testing.T, h *swaps, _ pluginhost.Status) {
			next := swapSpec(swapConfig{Mark: "third"})
			next.Watch = 0
			h.ensure(t, next)
			h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
				return s.Revision == h.Revision(next) && s.Progress == pluginhost.ProgressComplete
			})
		}, 1},
		{"the spec of before", func(t *testing.T, h *swaps, before pluginhost.Status) {
			h.ensure(t, swapSpec(swapConfig{Mark: "old"}))
			if s := h.progress(t, pluginhost.ProgressComplete); s.PID != before.PID {
				t.Errorf("status: got %+v, want the process of before", s)
			}
		}, 1},
		{"disabled", func(t *testing.T, h *swaps, _ pluginhost.Status) {
			off := swapSpec(swapConfig{Mode: "hang"})
			off.Enabled = false
			h.ensure(t, off)
			h.wait(t, "worker", pluginhost.PhaseStopped)
		}, 0},
		{"removed", func(t *testing.T, h *swaps, _ pluginhost.Status) {
			h.Remove("worker")
			poll(t, "it is forgotten", func() bool { return len(h.List()) == 0 })
		}, 0},
		{"the host ends", func(_ *testing.T, h *swaps, _ pluginhost.Status) { h.stop() }, 0},
		{"the active one dies", func(t *testing.T, h *swaps, before pluginhost.Status) {
			if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			h.waitFor(t, "worker", "back", func(s pluginhost.Status) bool {
				return s.PID != before.PID && s.Phase == pluginhost.PhaseRunning && s.Revision == before.Revision
			})
			h.ensure(t, swapSpec(swapConfig{Mark: "old"}))
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := startSwaps(t)
			before := h.good(t)
			h.ensure(t, swapSpec(swapConfig{Mode: "hang", Mark: "new"}))
			poll(t, "the candidate hangs", func() bool { return slices.Contains(h.marks(t), "hanging new") })
			if s := h.progress(t, pluginhost.ProgressStarting); s.Candidate.Phase != pluginhost.CandidateStarting || s.PID != before.PID {
				t.Errorf("status: got %+v, want a candidate that starts", s)
			}
			c.change(t, h, before)
			poll(t, "no other process is left", func() bool { return h.processes(t) == c.left })
		})
	}
}

// TestDiesBeforeTheCandidateIsReady: it is restarted, and the candidate takes over later.
func TestDiesBeforeTheCandidateIsReady(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	before := h.good(t)
	next := swapSpec(swapConfig{Mode: "wait", Mark: "new"})
	h.ensure(t, next)
	poll(t, "the candidate waits", func() bool { return slices.Contains(h.marks(t), "waiting new") })
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.waitFor(t, "worker", "back", func(s pluginhost.Status) bool { return s.PID != before.PID && s.Phase == pluginhost.PhaseRunning })
	if err := os.WriteFile(filepath.Join(h.dir, "d/plugins/worker/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Revision == h.Revision(next) && s.Phase == pluginhost.PhaseRunning
	})
}

// TestRestartSwap: with Restart the old one has ended before the new one starts, and comes
// back as a new process if that one is bad.
func TestRestartSwap(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	before := h.good(t)
	next := swapSpec(swapConfig{Mark: "new"})
	next.Restart, next.Watch = true, 0
	h.ensure(t, next)
	s := h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool {
		return s.Revision == h.Revision(next) && s.Progress == pluginhost.ProgressComplete
	})
	if !gone(before.PID) || s.History.Revisions[0].Gap <= 0 || s.History.Revisions[1].Outcome != pluginhost.OutcomeReplaced {
		t.Errorf("status: got %+v, history %+v", s, s.History.Revisions)
	}
	bad := swapSpec(swapConfig{Mode: "error", Mark: "bad"})
	bad.Restart = true
	h.ensure(t, bad)
	h.progress(t, pluginhost.ProgressRolledBack)
	back := h.wait(t, "worker", pluginhost.PhaseRunning)
	if back.Revision != h.Revision(next) || back.PID == s.PID || !strings.Contains(back.LastError, "not good enough") {
		t.Errorf("status: got %+v, want revision %s as a new process", back, h.Revision(next))
	}
}

// TestRestored: a host that is started again goes on with what ran, and does not try what
// was rolled back.
func TestRestored(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	ran, bad := swapSpec(swapConfig{Mark: "old"}), swapSpec(swapConfig{Mode: "failed", Mark: "new"})
	bad.Restore = &pluginhost.Restore{
		Active: &ran, Revision: h.Revision(ran), Failed: h.Revision(bad), FailedOutcome: pluginhost.OutcomeRolledBack, FailedMessage: "it was bad",
		History: []pluginhost.Revision{{Revision: h.Revision(bad), Outcome: pluginhost.OutcomeRolledBack}, {Revision: h.Revision(ran), Outcome: pluginhost.OutcomeActive}},
	}
	h.ensure(t, bad)
	s := h.wait(t, "worker", pluginhost.PhaseRunning)
	if s.Revision != h.Revision(ran) || s.Progress != pluginhost.ProgressRolledBack || !strings.Contains(s.ProgressMessage, "it was bad") || len(s.History.Revisions) != 2 {
		t.Errorf("status: got %+v, history %+v", s, s.History)
	}
	if got := h.marks(t); !slices.Equal(got, []string{"begin old"}) {
		t.Errorf("who acted: got %q", got)
	}
}

// TestFlood: a plugin that floods its log neither fills the disk nor loses its place.
func TestFlood(t *testing.T) {
	t.Parallel()
	h := startSwaps(t)
	h.ensure(t, swapSpec(swapConfig{Mode: "flood"}))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	h.stop()
	var size int64
	text := ""
	for _, name := range []string{"worker.log", "worker.log.1"} {
		data, err := os.ReadFile(filepath.Join(h.dir, "d/logs", name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		size += int64(len(data))
		text += string(data)
	}
	if size >= 32<<20 || !strings.Contains(text, "Log lines were dropped") {
		t.Errorf("the log has %d bytes, want less than was written, and a line about it", size)
	}
}

// TestRootOutOfMemory: a process that uses up its memory is killed and named so, as a
// candidate and in the watch period.
func TestRootOutOfMemory(t *testing.T) {
	need.Root(t)
	for mode, progress := range map[string]string{"eat": pluginhost.ProgressRefused, "gorge": pluginhost.ProgressRolledBack} {
		t.Run(mode, func(t *testing.T) {
			h := startSwaps(t)
			before := h.good(t)
			bad := swapSpec(swapConfig{Mode: mode, Mark: "new"})
			bad.Limits = pluginhost.Limits{Memory: 96 << 20, MilliCPU: 2000, Pids: 100}
			h.ensure(t, bad)
			h.progress(t, progress)
			s := h.wait(t, "worker", pluginhost.PhaseRunning)
			if n, message := h.count(pluginhost.EventLimitNotSet); n > 0 {
				need.Missing(t, "%s", message)
			}
			if s.PID != before.PID || !strings.Contains(s.LastError, "(signal: killed for want of memory: it used its limit of 96 MiB)") {
				t.Errorf("status: got %+v, want the one before, and why", s)
			}
		})
	}
}
