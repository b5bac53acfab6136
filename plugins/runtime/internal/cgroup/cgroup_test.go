package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/test/need"
)

func TestRootSpawnKillRemove(t *testing.T) {
	need.Root(t)
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("%s/test-%d", Root, os.Getpid())
	spawner, err := h.NewSpawner(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		spawner.Run(ctx, h, path, func(err error) { ready <- err })
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if h.Unified != "" {
		// Another Keelson's uninstall removes what is empty; the next start mends it.
		if err := os.Remove(filepath.Join(h.Unified, path)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sleep", "100") //nolint:noctx // killed by its cgroup
	if err := spawner.Start(ctx, cmd); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if h.Mounted(line) && !strings.HasSuffix(strings.TrimSpace(line), ":"+path) {
			t.Errorf("the process is in %s", line)
		}
	}
	if pids := h.Procs(path); len(pids) != 1 && len(pids) != 2 { // on v1 this process, too, has a thread in it
		t.Errorf("Procs: got %v", pids)
	}
	cancel()
	<-done
	if st, ok := h.Stats(path); !ok || st.Time.IsZero() {
		t.Errorf("Stats: got %+v, %t", st, ok)
	}
	limit, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := killOnly(limit, h, path, cmd); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(limit, path); err != nil {
		t.Error(err)
	}
	for _, dir := range h.Dirs(path) {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	if _, ok := h.Stats(path); ok {
		t.Error("a removed cgroup has statistics")
	}
}

func killOnly(ctx context.Context, h *Host, path string, cmd *exec.Cmd) error {
	go func() { _ = cmd.Wait() }() // a zombie would stay in the cgroup
	return h.Kill(ctx, path)
}
