package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// testUpgrade puts other binaries in the place of the running one: bad ones, one that does
// not start, and one of another version, while users of the cluster notice nothing.
func (c *cluster) testUpgrade(t *testing.T) {
	dir := t.TempDir()
	binary, err := os.ReadFile(c.bin)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	before := c.processes(t)
	for _, bad := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "missing"), "no such file"},
		{"not executable", write("plain", binary, 0o644), "chmod +x"},
		{"writable by others", write("open", binary, 0o777), "chmod go-w"},
		{"truncated", write("short", binary[:len(binary)/2], 0o755), "--to"},
		{"a text", write("text", []byte("#!/bin/sh\n"), 0o755), "no program for Linux"},
		{"another program", write("other", read(t, "/bin/sh"), 0o755), "no Keelson"},
	} {
		if out, code := c.try("keelson", "upgrade", "--to", bad.path); code == 0 || !strings.Contains(out, bad.want) {
			t.Errorf("%s: exit code %d, %s; want %q", bad.name, code, out, bad.want)
		}
	}
	// This one passes each check and fails late, when it writes a file whose folder is missing.
	broken := write("broken", bytes.ReplaceAll(binary, []byte("cluster.json"), []byte("cluster/json")), 0o755)
	out, code := c.try("keelson", "upgrade", "--to", broken)
	if code == 0 || !strings.Contains(out, "did not start") || !strings.Contains(out, "cluster/json") {
		t.Errorf("one that does not start: exit code %d, %s", code, out)
	}
	if now := c.processes(t); !slices.Equal(now, before) {
		t.Errorf("processes: got %v, want those of before, %v", now, before)
	}

	build := c.build(t)
	next := build[:len(build)-1] + "~"
	if build == "unknown" || len(build) < 7 { // it may be in the binary for other reasons: an upgrade to itself
		next = build
	}
	other := write("next", bytes.ReplaceAll(binary, []byte(build), []byte(next)), 0o755)
	restarts := c.restarts(t)
	requests := startLoad(c.machine, c.url)
	asked := c.askAPI(t)
	t.Logf("upgrade:\n%s", c.keelson(t, "upgrade", "--to", other))
	asked()
	requests.endWithoutFailure(t)
	if now := c.restarts(t); !slices.Equal(now, restarts) {
		t.Errorf("containers changed:\nbefore %v\nafter  %v", restarts, now)
	}
	after := c.processes(t)
	if after[0] != before[0] {
		t.Errorf("the server is process %s, want %s still", after[0], before[0])
	}
	for i, name := range builtins {
		if swapped := after[i+1] != before[i+1]; swapped != (next != build) {
			t.Errorf("plugin %s: process %s, %s before", name, after[i+1], before[i+1])
		}
	}
	if got := must(t, exec.Command(filepath.Join(c.data, "bin", "keelson"), "upgrade-check", "server")); !strings.Contains(got, `"build":"`+next+`"`) {
		t.Errorf("the installed binary: %s, want build %s", got, next)
	}
	c.keelson(t, "upgrade", "--to", c.bin)
}

// build is what the binary under test says of itself.
func (c *cluster) build(t *testing.T) string {
	t.Helper()
	var said struct{ Build string }
	if err := json.Unmarshal([]byte(must(t, exec.Command(c.bin, "upgrade-check", "server"))), &said); err != nil || said.Build == "" {
		t.Fatalf("upgrade-check: %v", err)
	}
	return said.Build
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// processes are the numbers of the server's process and of the plugins'.
func (c *cluster) processes(t *testing.T) []string {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(c.run, "server.pid"))
	if err != nil {
		t.Fatal(err)
	}
	all := []string{strings.TrimSpace(string(pid))}
	for _, name := range builtins {
		all = append(all, c.kubectl(t, "get", "plugins.keelson.dev", name, "--output=jsonpath={.status.pid}"))
	}
	return all
}

// askAPI asks the API again and again until the function that it gives is called. The port
// is open all the time: no connection is refused.
func (c *cluster) askAPI(t *testing.T) (end func()) {
	t.Helper()
	client := c.clientset(t)
	ctx, cancel := context.WithCancel(t.Context())
	var good, bad, refused atomic.Int64
	var longest time.Duration
	done := make(chan struct{})
	go func() { // ends by end
		defer close(done)
		for ctx.Err() == nil {
			begin := time.Now()
			err := askOnce(ctx, client)
			switch took := time.Since(begin); {
			case ctx.Err() != nil:
			case errors.Is(err, syscall.ECONNREFUSED):
				refused.Add(1)
			case err != nil:
				bad.Add(1)
			default:
				good.Add(1)
				longest = max(longest, took)
			}
		}
	}()
	return func() {
		t.Helper()
		cancel()
		<-done
		t.Logf("API: %d requests, %d failed, %d refused; the longest took %s", good.Load(), bad.Load(), refused.Load(), longest)
		if refused.Load() > 0 || good.Load() == 0 {
			t.Errorf("API: %d connections were refused, %d requests answered", refused.Load(), good.Load())
		}
	}
}

func askOnce(ctx context.Context, client *kubernetes.Clientset) error {
	_, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
	return err
}
