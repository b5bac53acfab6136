package kubelet

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/test/need"
)

// TestRootPurge: everything of the kubelet goes, mounts too; what others have stays.
func TestRootPurge(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	cfg := Config{LogDir: filepath.Join(dir, "log", "pods"), ContainerLogLinks: filepath.Join(dir, "log", "containers"), CgroupRoot: "/keelson-test-purge"}
	data, run := filepath.Join(dir, "data"), filepath.Join(dir, "run")
	const alive, gone, foreign = "uid-alive", "uid-gone", "uid-foreign"
	secret := filepath.Join(data, "pods", alive, "volumes", "kubernetes.io~secret", "s")
	for _, d := range []string{secret, run, cfg.ContainerLogLinks, filepath.Join(cfg.LogDir, "ns_a_"+alive), filepath.Join(cfg.LogDir, "ns_g_"+gone), filepath.Join(cfg.LogDir, "ns_f_"+foreign)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // stacked, as after a race of two starts
		if err := unix.Mount("tmpfs", secret, "tmpfs", 0, "size=64k"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(secret, unix.MNT_DETACH) })
	}
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(data, "pods", alive, "link")); err != nil {
		t.Fatal(err)
	}
	if err := markLogs(data, gone); err != nil { // its volumes went, its logs are there still
		t.Fatal(err)
	}
	for name, to := range map[string]string{"a.log": filepath.Join(cfg.LogDir, "ns_a_"+alive, "0.log"), "f.log": filepath.Join(cfg.LogDir, "ns_f_"+foreign, "0.log")} {
		if err := os.Symlink(to, filepath.Join(cfg.ContainerLogLinks, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it may be repeated
		if err := purge(t.Context(), cfg, data, run, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	there := map[string]bool{filepath.Join(data, "pods"): false, filepath.Join(data, logMarks): false, run: false, outside: true,
		filepath.Join(cfg.LogDir, "ns_a_"+alive): false, filepath.Join(cfg.LogDir, "ns_g_"+gone): false, filepath.Join(cfg.LogDir, "ns_f_"+foreign): true,
		filepath.Join(cfg.ContainerLogLinks, "a.log"): false, filepath.Join(cfg.ContainerLogLinks, "f.log"): true}
	for path, want := range there {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s: there %v, want %v", path, err == nil, want)
		}
	}
}
