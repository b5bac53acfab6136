package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/conmon"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
)

// StopContainer asks the container to end, and kills it when the time is over.
func (s *Server) StopContainer(ctx context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return &cri.StopContainerResponse{}, nil //nolint:nilerr // gone is stopped
	}
	begin := time.Now()
	if err := s.stop(ctx, c, time.Duration(max(req.GetTimeout(), 0))*time.Second); err != nil {
		return nil, rpcError(fmt.Errorf("stop container %s: %w", c.rec.ID, err))
	}
	s.metrics.observe("stop_container", begin)
	return &cri.StopContainerResponse{}, nil
}

func (s *Server) stop(ctx context.Context, c *container, grace time.Duration) error {
	rec := c.snapshot()
	if rec.Phase == phaseRunning && grace > 0 {
		sig, err := oci.ParseSignal(rec.StopSignal)
		if err != nil {
			sig = unix.SIGTERM
		}
		if rec.StopSignaledAt == 0 { // once, whoever waits for what comes of it
			if err := signalProcess(rec.Pid, rec.PidStart, sig); err != nil {
				return err
			}
			if err := s.update(c, func(r *containerRecord) { r.StopSignaledAt = time.Now().UnixNano() }); err != nil {
				return err
			}
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.exited:
			return s.settled(c)
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	return s.kill(ctx, c)
}

// settled waits until ended has cleared up.
func (s *Server) settled(c *container) error {
	c.op.Lock()
	defer c.op.Unlock()
	return nil
}

// kill ends a container at once, and returns when it is noted.
func (s *Server) kill(ctx context.Context, c *container) error {
	rec := c.snapshot()
	if rec.Phase == phaseExited {
		return nil
	}
	if err := signalProcess(rec.Pid, rec.PidStart, unix.SIGKILL); err != nil {
		return err
	}
	// Those that joined the pod's PID namespace do not die with the first process.
	if err := s.host.Kill(ctx, rec.CgroupPath); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return s.settled(c)
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of container %s: %w", rec.ID, ctx.Err())
	}
}

// signalProcess signals the very process, never another one with its number.
func signalProcess(pid int, start uint64, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || pid <= 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !alive(pid, start) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// RemoveContainer removes a container; a running one is killed. The log stays: it
// is the kubelet's.
func (s *Server) RemoveContainer(ctx context.Context, req *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return &cri.RemoveContainerResponse{}, nil //nolint:nilerr // gone is removed
	}
	if err := s.removeContainer(ctx, c); err != nil {
		return nil, rpcError(fmt.Errorf("remove container %s: %w", c.rec.ID, err))
	}
	return &cri.RemoveContainerResponse{}, nil
}

func (s *Server) removeContainer(ctx context.Context, c *container) error {
	if err := s.kill(ctx, c); err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	removed := c.removed
	c.mu.Unlock()
	if removed {
		return nil
	}
	if err := s.discard(ctx, c); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.containers, c.rec.ID)
	s.mu.Unlock()
	if !c.rec.Hidden {
		sb, _ := s.sandbox(c.rec.SandboxID)
		s.emit(cri.ContainerEventType_CONTAINER_DELETED_EVENT, c.rec.ID, sb)
	}
	return nil
}

// discard removes all that there is of a container, in whatever state of making
// it is. The record goes last. The caller holds op.
func (s *Server) discard(ctx context.Context, c *container) error {
	rec := c.snapshot()
	bundle := s.bundleDir(rec.ID)
	if rec.Phase == phaseCreating {
		left := conmon.Leftover(bundle)
		if startTime(left.ConmonPid) != 0 && isConmonOf(left.ConmonPid, rec.ID) {
			killTree(left.ConmonPid) // with the OCI runtime, which may be at work still
		}
	}
	if err := s.clearRuntime(ctx, rec); err != nil {
		return err
	}
	if err := mounts.DetachBelow(bundle); err != nil {
		return err
	}
	if err := mounts.Detach(filepath.Join(bundle, "rootfs")); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
	errs := []error{os.RemoveAll(bundle), os.RemoveAll(s.containerDir(rec.ID))}
	if err := os.Remove(filepath.Join(s.exitDir(), rec.ID)); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	errs = append(errs, s.images.Release(rec.ID))
	for i, m := range c.config.GetMounts() {
		if m.GetImage().GetImage() != "" {
			errs = append(errs, s.images.Release(fmt.Sprintf("%s/%d", rec.ID, i)))
		}
	}
	return errors.Join(errs...)
}
