package plugins

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit/kittest"
)

// harness is a host that runs until the end of the test.
type harness struct {
	*pluginhost.Host
	dir   string
	creds issuer
	stop  func()

	mu       sync.Mutex // guards below
	seen     map[string][]pluginhost.Status
	accepted []pluginhost.Description
}

func start(t testing.TB, change ...func(*pluginhost.Config)) *harness {
	t.Helper()
	dir := shortDir(t)
	creds, err := newCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{dir: dir, creds: creds, seen: map[string][]pluginhost.Status{}}
	cfg := config(dir, kittest.Logger(t), creds)
	cfg.OnStatus = func(name string, s pluginhost.Status) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen[name] = append(h.seen[name], s)
	}
	cfg.Accept = func(_ context.Context, d pluginhost.Description) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.accepted = append(h.accepted, d)
		return nil
	}
	for _, c := range change {
		c(&cfg)
	}
	h.Host = pluginhost.New(cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(h.stop)
	return h
}

func (h *harness) ensure(t testing.TB, s pluginhost.Spec) {
	t.Helper()
	if err := h.Ensure(s); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) wait(t testing.TB, name string, want pluginhost.Phase) pluginhost.Status {
	t.Helper()
	var s pluginhost.Status
	defer func() {
		if t.Failed() {
			t.Logf("status: %+v", s)
		}
	}()
	poll(t, name+" is "+string(want), func() bool {
		s, _ = h.Status(name)
		return s.Phase == want
	})
	return s
}

// waitFor waits until a plugin's status is as it should be.
func (h *harness) waitFor(t *testing.T, name, what string, ok func(pluginhost.Status) bool) pluginhost.Status {
	t.Helper()
	var s pluginhost.Status
	defer func() {
		if t.Failed() {
			t.Logf("status: %+v", s)
		}
	}()
	poll(t, name+" is "+what, func() bool {
		s, _ = h.Status(name)
		return ok(s)
	})
	return s
}

func worker1(mode string) pluginhost.Spec {
	s := pluginhost.Spec{Name: "worker", Kind: "runtime", BuiltIn: true, Enabled: true}
	if mode != "" {
		s.Config = json.RawMessage(`{"mode":"` + mode + `"}`)
	}
	return s
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

func TestLife(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1("x"))
	s := h.wait(t, "worker", pluginhost.PhaseRunning)
	if s.PID == 0 || s.Version != "test" || s.Restarts != 0 || s.LastError != "" || s.StartedAt.IsZero() {
		t.Errorf("status: got %+v, want a process of version test, no restarts, no error", s)
	}
	var told map[string]any
	data := filepath.Join(h.dir, "d/plugins/worker")
	poll(t, "the plugin wrote what it was told", func() bool {
		raw, err := os.ReadFile(filepath.Join(data, "told"))
		return err == nil && json.Unmarshal(raw, &told) == nil
	})
	run := filepath.Join(h.dir, "r")
	for key, want := range map[string]any{
		"server": "https://127.0.0.1:6443", "ca": string(h.creds.Authority.CAPEM()), "listen": run + "/runtime.sock", "node": "node-1",
		"domain": "cluster.local", "runDir": run + "/plugins/worker",
	} {
		if told[key] != want {
			t.Errorf("told %s: got %v, want %v", key, told[key], want)
		}
	}
	if got := told["endpoints"].(map[string]any)["network"]; got != run+"/network.sock" {
		t.Errorf("told endpoint of network: got %v", got)
	}
	if told["cert"] == "" || told["serving"] == "" {
		t.Error("client or serving certificate is missing")
	}
	h.mu.Lock()
	if len(h.accepted) != 1 || len(h.accepted[0].Rules) != 1 || h.accepted[0].Scope != "Node" {
		t.Errorf("accepted: got %+v, want one description with one rule", h.accepted)
	}
	h.mu.Unlock()
	h.stop()
	for _, file := range []string{"drained", "ended"} {
		if _, err := os.Stat(filepath.Join(data, file)); err != nil {
			t.Errorf("the plugin was not %s: %v", file, err)
		}
	}
	if !gone(s.PID) {
		t.Error("the process is still there")
	}
	if left, _ := filepath.Glob(run + "/host/*"); len(left) != 1 { // the lock
		t.Errorf("left over: %v", left)
	}
}

// TestKilled: a plugin killed with -9 is back within two seconds.
func TestKilled(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1(""))
	for i := range 3 {
		before := h.wait(t, "worker", pluginhost.PhaseRunning)
		began := time.Now()
		if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var s pluginhost.Status
		poll(t, "the plugin is back", func() bool {
			s, _ = h.Status("worker")
			return s.Phase == pluginhost.PhaseRunning && s.PID != before.PID
		})
		t.Logf("back after %s", time.Since(began))
		if s.Restarts != i+1 || !strings.Contains(s.LastError, "signal: killed") {
			t.Errorf("status: got %+v, want %d restarts and an error that says killed", s, i+1)
		}
	}
}

// TestCrashLoop: errors and panics are told, and restarts become rare.
func TestCrashLoop(t *testing.T) {
	for mode, want := range map[string]string{"error": "no luck today", "panic": "panic: out of order"} {
		t.Run(mode, func(t *testing.T) {
			h := start(t)
			began := time.Now()
			h.ensure(t, worker1(mode))
			poll(t, "three restarts", func() bool { s, _ := h.Status("worker"); return s.Restarts >= 3 })
			if took := time.Since(began); took < 200*time.Millisecond {
				t.Errorf("three restarts took %s: no back-off", took)
			}
			s := h.wait(t, "worker", pluginhost.PhaseBackOff)
			if !strings.Contains(s.LastError, want) || strings.Contains(s.LastError, "goroutine") {
				t.Errorf("last error: got %q, want %q and no stack", s.LastError, want)
			}
			if s.PID != 0 {
				t.Errorf("pid: got %d, want 0", s.PID)
			}
		})
	}
}

func TestDegraded(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1("degraded"))
	if s := h.wait(t, "worker", pluginhost.PhaseDegraded); s.Message != "no network yet" {
		t.Errorf("message: got %q", s.Message)
	}
}

// TestFailed: what a restart cannot mend is not restarted, and the error says where.
func TestFailed(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	loose := filepath.Join(dir, "loose")
	if err := os.WriteFile(loose, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o777); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	spec := func(change func(*pluginhost.Spec)) pluginhost.Spec {
		s := worker1("")
		change(&s)
		return s
	}
	for _, c := range []struct {
		name string
		spec pluginhost.Spec
		want string
	}{
		{"unknown built-in", pluginhost.Spec{Name: "unknown", BuiltIn: true, Enabled: true}, `spec.source.builtIn: there is no built-in plugin "unknown"`},
		{"relative path", pluginhost.Spec{Name: "worker", Path: "bin/x", Enabled: true}, `spec.source.path: "bin/x" is not an absolute path`},
		{"missing file", pluginhost.Spec{Name: "worker", Path: dir + "/none", Enabled: true}, "no such file"},
		{"folder", pluginhost.Spec{Name: "worker", Path: dir, Enabled: true}, "is not a file"},
		{"not executable", pluginhost.Spec{Name: "worker", Path: plain, Enabled: true}, "is not executable (mode 0644)"},
		{"writable", pluginhost.Spec{Name: "worker", Path: loose, Enabled: true}, "can be written by others"},
		{"checksum", pluginhost.Spec{Name: "worker", Path: script, SHA256: strings.Repeat("0", 64), Enabled: true}, "spec.source.sha256: " + script + " has checksum"},
		{"kind", spec(func(s *pluginhost.Spec) { s.Kind = "dns" }), `spec.kind: the program is of kind "runtime", not "dns"`},
		{"unknown field", spec(func(s *pluginhost.Spec) { s.Config = json.RawMessage(`{"mood":"x"}`) }), "spec.config.mood"},
		{"wrong type", spec(func(s *pluginhost.Spec) { s.Config = json.RawMessage(`{"mode":7}`) }), "spec.config.mode"},
		{"too long", spec(func(s *pluginhost.Spec) { s.Config = json.RawMessage(`{"mode":"much too long"}`) }), "spec.config.mode"},
		{"no object", spec(func(s *pluginhost.Spec) { s.Config = json.RawMessage(`[1]`) }), "spec.config: got [1], want a JSON object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start(t)
			h.ensure(t, c.spec)
			s := h.wait(t, c.spec.Name, pluginhost.PhaseFailed)
			if !strings.Contains(s.LastError, c.want) || s.PID != 0 {
				t.Errorf("got %q, pid %d, want %q and no process", s.LastError, s.PID, c.want)
			}
			<-time.After(300 * time.Millisecond) // long enough for a restart that must not be
			if again, _ := h.Status(c.spec.Name); again != s {
				t.Errorf("status changed by itself from %+v to %+v", s, again)
			}
		})
	}
}

// TestNoPlugin: a program that does no handshake, or leaves in it, is told so.
func TestNoPlugin(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"talks":     {"#!/bin/sh\necho Hello World\n", "Hello World"},
		"ends":      {"#!/bin/sh\necho went wrong >&2\nexit 7\n", "(exit status 7): went wrong"},
		"version":   {"#!/bin/sh\necho '1|99|unix|/tmp/none|grpc|'\nsleep 5\n", "99"},
		"no script": {"#!/no/such/shell\n", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(path, []byte(c.script), 0o755); err != nil {
				t.Fatal(err)
			}
			h := start(t)
			h.ensure(t, pluginhost.Spec{Name: "worker", Path: path, Enabled: true})
			var s pluginhost.Status
			poll(t, "the error", func() bool { s, _ = h.Status("worker"); return s.LastError != "" })
			if !strings.Contains(s.LastError, c.want) {
				t.Errorf("last error: got %q, want %q", s.LastError, c.want)
			}
		})
	}
}

// TestRefusedByThePlugin: an error of New that is no bad field is tried again.
func TestRefusedByThePlugin(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1("refused"))
	if s := h.wait(t, "worker", pluginhost.PhaseBackOff); !strings.Contains(s.LastError, "configure: this machine is not good enough") {
		t.Errorf("last error: got %q", s.LastError)
	}
}

// TestChanges: a changed spec, a restart, disabling and removing end the process in
// order; the same spec again changes nothing.
func TestChanges(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1(""))
	first := h.wait(t, "worker", pluginhost.PhaseRunning)
	next := func(before pluginhost.Status) (s pluginhost.Status) {
		t.Helper()
		poll(t, "another process runs", func() bool {
			s, _ = h.Status("worker")
			return s.Phase == pluginhost.PhaseRunning && s.PID != before.PID
		})
		return s
	}
	h.ensure(t, worker1(""))
	h.ensure(t, worker1("other"))
	second := next(first)
	poll(t, "the old process is gone", func() bool { return gone(first.PID) })
	if !gone(first.PID) || second.LastError != "" {
		t.Errorf("after a change: got %+v, want the old process gone and no error", second)
	}
	h.waitFor(t, "worker", "swapped", func(s pluginhost.Status) bool { return s.Progress == pluginhost.ProgressComplete })
	if err := h.Restart(t.Context(), "worker"); err != nil {
		t.Fatal(err)
	}
	third := next(second)
	if _, err := os.Stat(filepath.Join(h.dir, "d/plugins/worker/drained")); err != nil {
		t.Errorf("the plugin was not drained: %v", err)
	}
	off := worker1("other")
	off.Enabled = false
	h.ensure(t, off)
	h.wait(t, "worker", pluginhost.PhaseStopped)
	if !gone(third.PID) {
		t.Error("the process of a disabled plugin is still there")
	}
	if err := h.Restart(t.Context(), "worker"); err == nil {
		t.Error("restart of a disabled plugin: got nil, want an error")
	}
	h.ensure(t, worker1(""))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	h.Remove("worker")
	poll(t, "the plugin is forgotten", func() bool { return len(h.List()) == 0 })
	if err := h.Restart(t.Context(), "worker"); err == nil {
		t.Error("restart of a removed plugin: got nil, want an error")
	}
	h.ensure(t, worker1(""))
	h.wait(t, "worker", pluginhost.PhaseRunning)
}

func TestEnsureRefusesNames(t *testing.T) {
	h := start(t)
	for _, name := range []string{"", "../x", "Upper", strings.Repeat("x", 64)} {
		if err := h.Ensure(pluginhost.Spec{Name: name}); err == nil {
			t.Errorf("name %q: got nil, want an error", name)
		}
	}
}

func TestLogs(t *testing.T) {
	h := start(t)
	h.ensure(t, worker1("one"))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, err := h.Logs(ctx, "worker", -1, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(reader); s.Scan(); {
			lines <- s.Text()
		}
	}()
	want := func(text string) {
		t.Helper()
		for timeout := time.After(time.Minute); ; {
			select {
			case line := <-lines:
				if strings.Contains(line, text) {
					return
				}
			case <-timeout:
				t.Fatalf("no line with %q", text)
			}
		}
	}
	want(`"mode":"one"`)
	h.ensure(t, worker1("two"))
	want(`"mode":"two"`) // followed across the restart
	cancel()
	for range lines {
	}
	poll(t, "standard output is in the log", func() bool {
		all, err := h.Logs(t.Context(), "worker", -1, false)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(all)
		return err == nil && strings.Contains(string(text), "printed on standard output")
	})
	last, err := h.Logs(t.Context(), "worker", 1, false)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(last); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("last line: got %q, %v, want one line", text, err)
	}
	if _, err := h.Logs(t.Context(), "nobody", -1, false); err == nil {
		t.Error("log of an unknown plugin: got nil, want an error")
	}
}
