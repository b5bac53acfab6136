package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Spawner starts processes that are in a cgroup of their own from the first
// instruction on. To move a process afterwards takes the kernel's
// cgroup_threadgroup_rwsem once per v1 hierarchy, several milliseconds each; a
// child of a thread that is in the cgroup already costs nothing.
type Spawner struct {
	work    chan func()
	unified *os.File // of the unified hierarchy, nil without
}

// NewSpawner makes the cgroup path and a thread in it. Run has to be called.
func (h *Host) NewSpawner(path string) (*Spawner, error) {
	if err := h.Create(path); err != nil {
		return nil, err
	}
	s := &Spawner{work: make(chan func())}
	if h.Unified != "" {
		f, err := os.Open(filepath.Join(h.Unified, path))
		if err != nil {
			return nil, fmt.Errorf("open cgroup %s: %w", path, err)
		}
		s.unified = f
	}
	return s, nil
}

// Run serves Start until ctx ends. ready is called once with what became of the
// thread's move into the v1 cgroups.
func (s *Spawner) Run(ctx context.Context, h *Host, path string, ready func(error)) {
	goruntime.LockOSThread() // never unlocked: the thread ends, it is in a foreign cgroup
	before, err := os.ReadFile("/proc/thread-self/cgroup")
	tid := strconv.Itoa(unix.Gettid())
	seen := map[string]bool{}
	for _, root := range h.V1 {
		if seen[root] {
			continue
		}
		seen[root] = true
		if werr := os.WriteFile(filepath.Join(root, path, "tasks"), []byte(tid), 0o644); werr != nil && err == nil {
			err = fmt.Errorf("move the spawning thread to cgroup %s: %w", path, werr)
		}
	}
	ready(err)
	for {
		select {
		case <-ctx.Done():
			if s.unified != nil {
				_ = s.unified.Close()
			}
			h.back(tid, string(before))
			return
		case f := <-s.work:
			f()
		}
	}
}

// Start starts cmd in the cgroup, in a session of its own, without a parent-death
// signal.
func (s *Spawner) Start(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.unified != nil {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(s.unified.Fd())
	}
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- cmd.Start() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// back moves a thread to where it was. Its end would do, but the Go runtime never
// ends a process' first thread.
func (h *Host) back(tid, cgroups string) {
	for line := range strings.Lines(cgroups) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] == "" {
			continue
		}
		name, _, _ := strings.Cut(f[1], ",")
		if root := h.V1[name]; root != "" {
			_ = os.WriteFile(filepath.Join(root, f[2], "tasks"), []byte(tid), 0o644) // as far as it goes
		}
	}
}
