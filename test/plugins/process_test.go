package plugins

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/test/need"
)

// TestStopsByForce: a plugin that answers nothing is killed, and does not hold up the end
// for longer than its time.
func TestStopsByForce(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: takes the 20 seconds that a hung plugin is given (-short)")
	}
	h := start(t)
	h.ensure(t, worker1(""))
	s := h.wait(t, "worker", pluginhost.PhaseRunning)
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h.stop()
	if took := time.Since(began); took > time.Minute {
		t.Errorf("the end took %s, want 20s and a little", took)
	}
	if !gone(s.PID) {
		t.Error("the process is still there")
	}
}

// TestRootChildDoesNotHoldUp: a plugin's child that lives on with its standard error open
// does not hide the plugin's end; it is killed with the plugin's cgroup.
func TestRootChildDoesNotHoldUp(t *testing.T) {
	need.Root(t)
	h := start(t)
	h.ensure(t, worker1("child"))
	before := h.wait(t, "worker", pluginhost.PhaseRunning)
	raw, err := os.ReadFile(filepath.Join(h.dir, "d/plugins/worker/child"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(child, syscall.SIGKILL) }()
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	poll(t, "the plugin is back", func() bool {
		s, _ := h.Status("worker")
		return s.Phase == pluginhost.PhaseRunning && s.PID != before.PID
	})
	poll(t, "the child is dead", func() bool { return dead(child) })
}

// dead is also true for a zombie that init has not collected yet.
func dead(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// TestRootCgroup: a plugin is in a cgroup of its own in every hierarchy, which goes with it.
func TestRootCgroup(t *testing.T) {
	need.Root(t)
	h := start(t)
	h.ensure(t, worker1(""))
	s := h.wait(t, "worker", pluginhost.PhaseRunning)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	want := ":/keelson-test-" + filepath.Base(h.dir) + "/worker."
	for _, name := range []string{"0:", "pids", "memory"} {
		found := false
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, name) {
				found = found || strings.Contains(line, want)
			}
		}
		if !found && strings.Contains(string(raw), name) {
			t.Errorf("hierarchy %s: %s is not in %s", name, raw, want)
		}
	}
	h.stop()
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/keelson-test-" + filepath.Base(h.dir)); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
