package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exit codes where no real one is known.
const (
	exitUnknown = 255
	exitKilled  = 128 + int32(unix.SIGKILL)
)

// adopt takes a created or running container into the books, and begins to watch
// its conmon.
func (s *Server) adopt(c *container) {
	s.mu.Lock()
	s.containers[c.rec.ID] = c
	s.mu.Unlock()
	rec := c.snapshot()
	if rec.Phase != phaseExited {
		s.watchers.Go(func() { s.watchConmon(c, rec) })
	}
}

// newExitWatcher watches the directory where conmon leaves exit files by rename.
func newExitWatcher(dir string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch for exits: %w", err)
	}
	if err := w.Add(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("watch for exits: %w", err), w.Close())
	}
	return w, nil
}

// watchExits ends containers as their exit files appear. An overflow loses no
// exit: conmon's own end, seen by watchConmon, follows.
func (s *Server) watchExits(ctx context.Context, w *fsnotify.Watcher) {
	defer w.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-w.Errors:
			s.log.Warn("Exit events were lost, the end of conmon reports them", "err", err)
		case event, ok := <-w.Events:
			if !ok {
				return
			}
			s.mu.RLock()
			c := s.containers[filepath.Base(event.Name)]
			s.mu.RUnlock()
			if c == nil || !event.Has(fsnotify.Create) {
				continue
			}
			s.watchers.Go(func() { s.ended(c) })
		}
	}
}

// watchConmon waits until conmon ends, which it does after the exit file is
// written, or when somebody kills it. A container without conmon has lost its
// log and its exit code: it is killed.
func (s *Server) watchConmon(c *container, rec containerRecord) {
	if err := waitProcess(rec.ConmonPid, rec.ConmonStart, c.exited, s.stopped); err != nil {
		return // the container ended, or the server does
	}
	if _, _, ok := s.readExit(rec.ID); !ok {
		s.log.Warn("A container's conmon ended without an exit code; the container is killed", "container", rec.ID)
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTime) // the server's own work, bounded
		defer cancel()
		if err := s.host.Kill(ctx, rec.CgroupPath); err != nil {
			s.log.Error("A container without conmon was not killed", "container", rec.ID, "err", err)
		}
	}
	s.ended(c)
}

var errStopWaiting = errors.New("told to stop waiting")

// waitProcess blocks until the process has ended, or either channel is closed.
func waitProcess(pid int, start uint64, stop1, stop2 <-chan struct{}) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil //nolint:nilerr // gone
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !alive(pid, start) {
		return f.Close()
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	ended := make(chan struct{})
	go func() { // ends with the process, or when f is closed below
		defer close(ended)
		first := true
		_ = raw.Read(func(uintptr) bool {
			// A pidfd becomes readable once, at the end.
			if first {
				first = false
				return !alive(pid, start)
			}
			return true
		})
	}()
	select {
	case <-ended:
		if alive(pid, start) { // the descriptor cannot be waited for; the exit file tells
			err = errStopWaiting
		}
	case <-stop1:
		err = errStopWaiting
	case <-stop2:
		err = errStopWaiting
	}
	_ = f.SetReadDeadline(time.Unix(1, 0))
	<-ended
	return errors.Join(err, f.Close())
}

// readExit reads conmon's exit file.
func (s *Server) readExit(id string) (code int32, at time.Time, ok bool) {
	file := filepath.Join(s.exitDir(), id)
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, time.Time{}, false
	}
	st, err := os.Stat(file)
	if err != nil {
		return 0, time.Time{}, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 32)
	if err != nil {
		return 0, time.Time{}, false
	}
	if n < 0 {
		n = exitUnknown
	}
	return int32(n), st.ModTime(), true
}

// ended notes a container's end once, reports it, and clears what the OCI runtime
// keeps of it.
func (s *Server) ended(c *container) {
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.snapshot()
	if rec.Phase == phaseExited || rec.Phase == phaseCreating {
		return
	}
	code, at, ok := s.readExit(rec.ID)
	if !ok {
		code, at = exitKilled, time.Now()
	}
	oom := s.host.OOMKills(rec.CgroupPath) > 0 && code != 0
	err := s.update(c, func(r *containerRecord) {
		if r.StartedAt == 0 && rec.Phase == phaseRunning {
			r.StartedAt = r.CreatedAt
		}
		r.Phase, r.ExitCode, r.FinishedAt = phaseExited, code, max(at.UnixNano(), r.StartedAt)
		switch {
		case r.Reason != "": // why it could not start
		case oom:
			r.Reason = "OOMKilled"
		case !ok:
			r.Reason, r.Message = "Error", "the container's monitor (conmon) was killed"
		case code == 0:
			r.Reason = "Completed"
		default:
			r.Reason = "Error"
		}
	})
	if err != nil {
		s.log.Error("The end of a container is not on disk", "container", rec.ID, "err", err)
	}
	close(c.exited)
	sb, _ := s.sandbox(rec.SandboxID)
	if !rec.Hidden {
		s.emit(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, rec.ID, sb)
	}
	s.log.Debug("Container ended", "container", rec.ID, "exitCode", code, "oomKilled", oom)
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime) // the server's own work, bounded
	defer cancel()
	if err := s.clearRuntime(ctx, rec); err != nil {
		s.log.Warn("An ended container was not cleared wholly", "container", rec.ID, "err", err)
	}
}

// clearRuntime removes the OCI runtime's state, processes that the first one
// left behind (with a shared PID namespace), and the cgroup.
func (s *Server) clearRuntime(ctx context.Context, rec containerRecord) error {
	if err := s.host.Kill(ctx, rec.CgroupPath); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(s.ociRoot(), rec.ID)); err == nil && rec.Runtime != "" {
		if err := s.runtimeCommand(ctx, rec.Runtime, "delete", "--force", rec.ID); err != nil {
			s.log.Warn("The OCI runtime did not delete a container", "container", rec.ID, "err", err)
			if err := os.RemoveAll(filepath.Join(s.ociRoot(), rec.ID)); err != nil {
				return err
			}
		}
	}
	return s.host.Remove(ctx, rec.CgroupPath)
}

// runtimeCommand runs the OCI runtime, and makes an error of what it says.
func (s *Server) runtimeCommand(ctx context.Context, bin string, args ...string) error {
	cmd := exec.CommandContext(ctx, bin, append([]string{"--root=" + s.ociRoot()}, args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if message := strings.TrimSpace(out.String()); message != "" {
			return fmt.Errorf("%s %s: %s", filepath.Base(bin), args[0], message)
		}
		return fmt.Errorf("%s %s: %w", filepath.Base(bin), args[0], err)
	}
	return nil
}
