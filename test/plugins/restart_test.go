package plugins

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// TestHostKilled: when the host is killed with -9, its plugins end; what is recorded is
// swept by the next host.
func TestHostKilled(t *testing.T) {
	dir := shortDir(t)
	host := exec.Command(os.Args[0], "host", dir)
	host.Stderr = os.Stderr
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	// read reads the one record that there is.
	read := func(into any) bool {
		paths, err := filepath.Glob(filepath.Join(dir, "r/host/worker.*.json"))
		if err != nil || len(paths) != 1 {
			return false
		}
		raw, err := os.ReadFile(paths[0])
		return err == nil && json.Unmarshal(raw, into) == nil
	}
	var record struct{ PID int }
	poll(t, "the plugin is recorded and at work", func() bool {
		_, told := os.Stat(filepath.Join(dir, "d/plugins/worker/told"))
		return told == nil && read(&record) && record.PID > 0
	})
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait()
	began := time.Now()
	poll(t, "the plugin ends with its host", func() bool { return dead(record.PID) })
	t.Logf("the plugin ended %s after its host", time.Since(began))
	again := exec.Command(os.Args[0], "host", dir)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	poll(t, "the next host runs the plugin", func() bool {
		var now struct{ PID int }
		return read(&now) && now.PID != record.PID && now.PID > 0
	})
	if err := again.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(); err != nil {
		t.Errorf("the host ended with %v, want status 0", err)
	}
}

// TestSweep: a recorded process of an earlier host is ended, one that only has the same
// process number is not.
func TestSweep(t *testing.T) {
	dir := shortDir(t)
	orphan := func(instance string) *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		cmd.Env = []string{pluginv1.InstanceEnv + "=" + instance}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	ours, strangers := orphan("ours"), orphan("another")
	run := filepath.Join(dir, "r/host")
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, cmd := range map[string]*exec.Cmd{"a": ours, "b": strangers} {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		began := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[19]
		record := fmt.Sprintf(`{"pid":%d,"startTime":%s,"instance":"ours"}`, cmd.Process.Pid, began)
		if err := os.WriteFile(filepath.Join(run, name+".json"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(run, "c.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, func(c *pluginhost.Config) { c.RunDir = filepath.Join(dir, "r") })
	poll(t, "the orphan is ended and the records are gone", func() bool {
		left, _ := filepath.Glob(run + "/*.json")
		return dead(ours.Process.Pid) && len(left) == 0
	})
	if dead(strangers.Process.Pid) {
		t.Error("a stranger's process was ended")
	}
}

func TestOneHostForAFolder(t *testing.T) {
	h := start(t)
	poll(t, "the first host runs", func() bool { _, err := os.Stat(filepath.Join(h.dir, "r/host/lock")); return err == nil })
	h.ensure(t, worker1(""))
	h.wait(t, "worker", pluginhost.PhaseRunning)
	second := pluginhost.New(config(h.dir, kittest.Logger(t), h.creds))
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another one runs") {
		t.Errorf("second host: got %v, want an error that another one runs", err)
	}
}

// TestAcceptIsAskedAgain: no grant, no start; and the grant may come later.
func TestAcceptIsAskedAgain(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	h := start(t, func(c *pluginhost.Config) {
		c.Accept = func(context.Context, pluginhost.Description) error {
			mu.Lock()
			defer mu.Unlock()
			if asked++; asked < 3 {
				return fmt.Errorf("the API is not ready")
			}
			return nil
		}
	})
	h.ensure(t, worker1(""))
	if s := h.wait(t, "worker", pluginhost.PhaseRunning); !strings.Contains(s.LastError, "accept plugin worker: the API is not ready") {
		t.Errorf("last error: got %q", s.LastError)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
