package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/conmon"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
)

// execSession is one command in a running container.
type execSession struct {
	cmd     *exec.Cmd
	dir     string // with the process specification and the process id
	cleanup func()
}

// newExec prepares a command: the container's own environment, user and limits, and
// other arguments.
func (s *Server) newExec(c *container, command []string, tty bool) (*execSession, error) {
	rec := c.snapshot()
	if rec.Phase != phaseRunning {
		return nil, fmt.Errorf("container %s is not running: %w", rec.ID, errState)
	}
	if len(command) == 0 {
		return nil, fmt.Errorf("no command: %w", oci.ErrInvalid)
	}
	data, err := os.ReadFile(filepath.Join(s.bundleDir(rec.ID), "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, err
	}
	process := spec.Process
	process.Args, process.Terminal = command, tty
	if tty {
		process.Env = append(process.Env, "TERM=xterm")
	}
	if data, err = json.Marshal(process); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.runDir, "exec"), execOwner())
	if err != nil {
		return nil, err
	}
	cleanup := func() { _ = os.RemoveAll(dir) } // swept at the next start otherwise
	if err := os.WriteFile(filepath.Join(dir, "process.json"), data, 0o600); err != nil {
		cleanup()
		return nil, err
	}
	cmd := exec.Command(rec.Runtime, "--root="+s.ociRoot(), "exec", "--pid-file", filepath.Join(dir, "pid"), //nolint:noctx // killed inside the container, see kill
		"--process", filepath.Join(dir, "process.json"), rec.ID)
	return &execSession{cmd: cmd, dir: dir, cleanup: cleanup}, nil
}

// execOwner begins the name of a session's folder: the process that has it.
func execOwner() string { return fmt.Sprintf("%d-%d-", os.Getpid(), startTime(os.Getpid())) }

// execOwned tells whether the process that has a session's folder still runs: one that
// was deactivated serves its sessions to their end.
func execOwned(name string) bool {
	var pid int
	var start uint64
	_, err := fmt.Sscanf(name, "%d-%d-", &pid, &start)
	return err == nil && alive(pid, start)
}

// kill ends the command in the container. The OCI runtime, its parent, follows by
// itself: killed at once, it would leave a zombie to the container's first process.
func (e *execSession) kill() {
	data, err := os.ReadFile(filepath.Join(e.dir, "pid"))
	if err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
			killTree(pid)
			time.AfterFunc(execKillTime, func() { _ = e.cmd.Process.Kill() }) // no-op when it has ended
			return
		}
	}
	_ = e.cmd.Process.Kill() // no-op when it has ended
}

// execKillTime is how long the OCI runtime may take to see its command's end.
const execKillTime = 2 * time.Second

// killTree kills a process and its descendants, as a shell's children would stay.
func killTree(pid int) {
	_ = unix.Kill(pid, unix.SIGSTOP) // makes no more children
	id := strconv.Itoa(pid)
	data, err := os.ReadFile("/proc/" + id + "/task/" + id + "/children")
	if err == nil {
		for child := range strings.FieldsSeq(string(data)) {
			if n, err := strconv.Atoi(child); err == nil {
				killTree(n)
			}
		}
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

// wait waits for the command; a cancelled ctx kills it.
func (e *execSession) wait(ctx context.Context) (int, error) {
	stop := context.AfterFunc(ctx, e.kill)
	err := e.cmd.Wait()
	if !stop() || ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	case errors.Is(err, exec.ErrWaitDelay): // a child kept the output open
		return e.cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}

// ExecSync runs a command and answers its output and exit code.
func (s *Server) ExecSync(ctx context.Context, req *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	begin := time.Now()
	e, err := s.newExec(c, req.GetCmd(), false)
	if err != nil {
		return nil, rpcError(fmt.Errorf("exec in container %s: %w", c.rec.ID, err))
	}
	defer e.cleanup()
	if req.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.GetTimeout())*time.Second)
		defer cancel()
	}
	stdout, stderr := &limitedBuffer{limit: s.config.MaxExecOutput}, &limitedBuffer{limit: s.config.MaxExecOutput}
	e.cmd.Stdout, e.cmd.Stderr = stdout, stderr
	e.cmd.WaitDelay = 2 * time.Second
	if err := e.cmd.Start(); err != nil {
		return nil, rpcError(err)
	}
	code, err := e.wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, status.Errorf(codes.DeadlineExceeded, "command %q timed out after %ds", req.GetCmd(), req.GetTimeout())
	}
	if err != nil {
		return nil, rpcError(fmt.Errorf("exec in container %s: %w", c.rec.ID, err))
	}
	if rec := c.snapshot(); code != 0 && !alive(rec.Pid, rec.PidStart) { // the OCI runtime's words, not the command's
		return nil, rpcError(fmt.Errorf("exec in container %s: it has ended meanwhile: %w", c.rec.ID, errState))
	}
	s.metrics.observe("exec_sync", begin)
	return &cri.ExecSyncResponse{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), ExitCode: int32(code)}, nil
}

// limitedBuffer takes everything and keeps the first limit bytes.
type limitedBuffer struct {
	bytes.Buffer
	limit int64
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - int64(b.Len()); room > 0 {
		b.Buffer.Write(p[:min(int64(len(p)), room)])
	}
	return len(p), nil
}

// UpdateContainerResources changes a container's limits.
func (s *Server) UpdateContainerResources(ctx context.Context, req *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	if err := s.updateResources(ctx, c, req.GetLinux()); err != nil {
		return nil, rpcError(fmt.Errorf("update resources of container %s: %w", c.rec.ID, err))
	}
	return &cri.UpdateContainerResourcesResponse{}, nil
}

func (s *Server) updateResources(ctx context.Context, c *container, change *cri.LinuxContainerResources) error {
	c.op.Lock()
	defer c.op.Unlock()
	rec := c.snapshot()
	if rec.Phase != phaseRunning && rec.Phase != phaseCreated {
		return fmt.Errorf("it is %s: %w", rec.Phase, errState)
	}
	resources := oci.Resources(change, s.host.V2)
	data, err := json.Marshal(resources)
	if err != nil {
		return err
	}
	file := filepath.Join(s.bundleDir(rec.ID), "resources.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	if err := s.runtimeCommand(ctx, rec.Runtime, "update", "--resources", file, rec.ID); err != nil {
		return err
	}
	c.mu.Lock()
	merged := mergeResources(c.resources, change)
	c.resources = merged
	c.mu.Unlock()
	raw, err := encode(merged)
	if err != nil {
		return err
	}
	return s.update(c, func(r *containerRecord) { r.Resources = raw })
}

// mergeResources answers the resources after a change, in which zero means "as it is".
func mergeResources(old, change *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	pick := func(a, b int64) int64 {
		if b != 0 {
			return b
		}
		return a
	}
	text := func(a, b string) string {
		if b != "" {
			return b
		}
		return a
	}
	out := &cri.LinuxContainerResources{
		CpuPeriod: pick(old.GetCpuPeriod(), change.GetCpuPeriod()), CpuQuota: pick(old.GetCpuQuota(), change.GetCpuQuota()),
		CpuShares: pick(old.GetCpuShares(), change.GetCpuShares()), MemoryLimitInBytes: pick(old.GetMemoryLimitInBytes(), change.GetMemoryLimitInBytes()),
		MemorySwapLimitInBytes: pick(old.GetMemorySwapLimitInBytes(), change.GetMemorySwapLimitInBytes()), OomScoreAdj: pick(old.GetOomScoreAdj(), change.GetOomScoreAdj()),
		CpusetCpus: text(old.GetCpusetCpus(), change.GetCpusetCpus()), CpusetMems: text(old.GetCpusetMems(), change.GetCpusetMems()),
		HugepageLimits: change.GetHugepageLimits(), Unified: change.GetUnified(),
	}
	if len(out.HugepageLimits) == 0 {
		out.HugepageLimits = old.GetHugepageLimits()
	}
	if len(out.Unified) == 0 {
		out.Unified = old.GetUnified()
	}
	return out
}

// ReopenContainerLog makes conmon write to the log's path anew, after a rotation.
func (s *Server) ReopenContainerLog(ctx context.Context, req *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	rec := c.snapshot()
	if rec.Phase != phaseRunning {
		return nil, rpcError(fmt.Errorf("reopen log of container %s: it is not running: %w", rec.ID, errState))
	}
	if err := s.reopenLog(ctx, rec); err != nil {
		return nil, rpcError(fmt.Errorf("reopen log of container %s: %w", rec.ID, err))
	}
	return &cri.ReopenContainerLogResponse{}, nil
}

// reopenLog returns when the new file is there: the kubelet may compress the old one.
func (s *Server) reopenLog(ctx context.Context, rec containerRecord) error {
	if rec.LogPath == "" {
		return nil
	}
	if err := conmon.ReopenLog(s.bundleDir(rec.ID)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ticker := time.NewTicker(2 * time.Millisecond) // conmon gives no answer
	defer ticker.Stop()
	for {
		if _, err := os.Stat(rec.LogPath); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("conmon did not open %s: %w", rec.LogPath, ctx.Err())
		case <-ticker.C:
		}
	}
}
