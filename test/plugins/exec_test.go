package plugins

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"keelson.dev/keelson/core/pluginhost"
)

// wrapped is a program run by exec as plugin "wrapped" of a kind with a socket.
func wrapped(t *testing.T, config map[string]any) pluginhost.Spec {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return pluginhost.Spec{
		Name: "wrapped", Kind: "storage", BuiltIn: true, Program: "exec", Scope: "Node", Enabled: true, Config: raw,
		Rules: []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"nodes"}}},
	}
}

// child is the one process that another one has started.
func child(t *testing.T, pid int) int {
	t.Helper()
	var found int
	poll(t, "a child of the plugin", func() bool {
		tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
		for _, file := range tasks {
			data, _ := os.ReadFile(file)
			if n, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
				found = n
			}
		}
		return found != 0
	})
	return found
}

// TestExec: a program that knows nothing of plugins runs under the name, kind and rules
// of its Plugin object, and ends with its plugin, however that ends.
func TestExec(t *testing.T) {
	h := start(t)
	h.ensure(t, wrapped(t, map[string]any{"command": "/bin/sleep", "args": []string{"600"}}))
	before := h.wait(t, "wrapped", pluginhost.PhaseRunning)
	h.mu.Lock()
	d := h.accepted[0]
	h.mu.Unlock()
	if d.Name != "wrapped" || d.Kind != "storage" || d.Scope != "Node" || len(d.Rules) != 1 || d.Rules[0].Resources[0] != "nodes" {
		t.Errorf("description: got %+v", d)
	}
	sleeper := child(t, before.PID)
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	poll(t, "the program has ended with its plugin", func() bool { return gone(sleeper) })
	var s pluginhost.Status
	poll(t, "the plugin is back", func() bool {
		s, _ = h.Status("wrapped")
		return s.Phase == pluginhost.PhaseRunning && s.PID != before.PID
	})
	sleeper = child(t, s.PID)
	h.stop()
	if !gone(sleeper) {
		t.Error("the program is still there")
	}
}

// TestExecEnds: the end of the program is told with its last lines.
func TestExecEnds(t *testing.T) {
	h := start(t)
	h.ensure(t, wrapped(t, map[string]any{"command": "/bin/ls", "args": []string{"/nowhere"}}))
	s := h.wait(t, "wrapped", pluginhost.PhaseBackOff)
	for _, want := range []string{"program /bin/ls ended: exit status 2", "/nowhere"} {
		if !strings.Contains(s.LastError, want) {
			t.Errorf("last error: got %q, want %q in it", s.LastError, want)
		}
	}
}

// TestExecRefused: a bad configuration is told with its field, and so is a program that
// is none.
func TestExecRefused(t *testing.T) {
	h := start(t)
	h.ensure(t, wrapped(t, map[string]any{"command": "ls"}))
	if s := h.wait(t, "wrapped", pluginhost.PhaseFailed); !strings.Contains(s.LastError, `spec.config: command: Invalid value: "ls"`) {
		t.Errorf("last error: got %q", s.LastError)
	}
	spec := wrapped(t, map[string]any{"command": "/bin/ls"})
	spec.Name, spec.Program = "other", "unknown"
	h.ensure(t, spec)
	if s := h.wait(t, "other", pluginhost.PhaseFailed); !strings.Contains(s.LastError, `spec.source.program: there is no built-in program "unknown"`) {
		t.Errorf("last error: got %q", s.LastError)
	}
}
