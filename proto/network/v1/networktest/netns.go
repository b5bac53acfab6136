package networktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// NewNetns makes a network namespace as a container runtime would, and returns its path. It
// is removed with the test, or by remove, which may be called more than once. It takes root.
func NewNetns(t testing.TB) (path string, remove func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { // its thread is never unlocked, and ends with it
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	remove = func() {
		_ = unix.Unmount(path, unix.MNT_DETACH) // repeated, it finds nothing
		_ = os.Remove(path)
	}
	t.Cleanup(remove)
	return path, remove
}
