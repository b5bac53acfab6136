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
	host    *Host
	path    string
	work    chan func()
	unified *os.File // of the unified hierarchy, nil without; the spawning thread's
}

// NewSpawner makes the cgroup path and a thread in it. Run has to be called.
func (h *Host) NewSpawner(path string) (*Spawner, error) {
	if err := h.Create(path); err != nil {
		return nil, err
	}
	s := &Spawner{host: h, path: path, work: make(chan func())}
	if h.Unified == "" {
		return s, nil
	}
	return s, s.open()
}

func (s *Spawner) open() error {
	f, err := os.Open(filepath.Join(s.host.Unified, s.path))
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", s.path, err)
	}
	if s.unified != nil {
		_ = s.unified.Close()
	}
	s.unified = f
	return nil
}

// ensure makes the unified cgroup anew if somebody removed it: it is empty while no
// container runs, and another Keelson's uninstall removes what is empty.
func (s *Spawner) ensure() error {
	if s.unified == nil {
		return nil
	}
	now, err := os.Stat(filepath.Join(s.host.Unified, s.path))
	if err == nil {
		if held, err := s.unified.Stat(); err == nil && os.SameFile(now, held) {
			return nil
		}
		return s.open()
	}
	if err := s.host.Create(s.path); err != nil {
		return err
	}
	return s.open()
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
	done := make(chan error, 1)
	select {
	case s.work <- func() { done <- s.start(cmd) }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// start runs on the spawning thread.
func (s *Spawner) start(cmd *exec.Cmd) error {
	if err := s.ensure(); err != nil {
		return err
	}
	if s.unified != nil {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(s.unified.Fd())
	}
	return cmd.Start()
}

// Mounted says whether the hierarchy of a line of /proc/PID/cgroup is mounted. One that
// was unmounted while cgroups were in it stays in the kernel, and nobody can enter it.
func (h *Host) Mounted(line string) bool {
	f := strings.SplitN(strings.TrimSpace(line), ":", 3)
	if len(f) != 3 {
		return false
	}
	if f[1] == "" {
		return h.Unified != ""
	}
	name, _, _ := strings.Cut(f[1], ",")
	return h.V1[name] != ""
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
