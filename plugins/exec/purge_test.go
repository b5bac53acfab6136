package exec

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/test/need"
)

// TestRootStopAll: what a program left in its cgroups ends with its children and its
// network namespace; a stranger's process in the same cgroup does not.
func TestRootStopAll(t *testing.T) {
	need.Root(t)
	roots, err := hierarchies()
	if err != nil || len(roots) == 0 {
		t.Fatalf("cgroups: %v, %v", roots, err)
	}
	group := fmt.Sprintf("/keelson-exec-test-%d/shims", os.Getpid())
	if err := makeCgroups([]string{group}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, root := range roots {
			removeGroups(root.Mountpoint, group)
		}
	})
	data, run := t.TempDir(), t.TempDir()
	own := filepath.Join(data, "containerd")
	work := filepath.Join(run, "containerd", "state")
	for _, dir := range []string{own, work} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	record, err := json.Marshal(outlive{[]string{group}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, outliveFile), record, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func(dir string, args ...string) *exec.Cmd {
		cmd := exec.Command(args[0], args[1:]...) // ended below
		cmd.Dir = dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		for _, root := range roots {
			if err := os.WriteFile(filepath.Join(root.Mountpoint, group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return cmd
	}
	kept := filepath.Join(run, "netns")
	shim := begin(work, "unshare", "--net", "sh", "-c", `touch "$1" && mount --bind /proc/self/ns/net "$1" && echo > "$1.up"; sleep 1000 & wait`, "sh", kept)
	stranger := begin(t.TempDir(), "sleep", "1000")
	t.Cleanup(func() { _ = mounts.DetachBelow(run) })
	for {
		if _, err := os.Stat(kept + ".up"); err == nil {
			break
		}
		if p, state, ok := readProc(shim.Process.Pid); !ok || state == "Z" {
			t.Fatalf("the program ended: %+v", p)
		}
		<-time.After(5 * time.Millisecond)
	}

	if err := StopAll(t.Context(), data, run, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := shim.Wait(); err == nil {
		t.Error("the program ended by itself, want by a signal")
	}
	if p, _, ok := readProc(stranger.Process.Pid); !ok || !p.lives() {
		t.Error("a stranger's process in the same cgroup was ended")
	}
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("the network namespace is still kept: %v", err)
	}
	if err := StopAll(t.Context(), data, run, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("once more: %v", err)
	}

	if err := os.WriteFile(filepath.Join(own, outliveFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := StopAll(t.Context(), data, run, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "plugin containerd") {
		t.Errorf("a damaged record: %v, want an error that names the plugin", err)
	}
}
