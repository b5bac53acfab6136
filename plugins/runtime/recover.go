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
	"time"

	"github.com/moby/sys/mountinfo"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
	"keelson.dev/keelson/plugins/runtime/internal/netns"
)

// recover reads all records, takes what still runs, notes what ended, and
// removes what was half made.
func (s *Server) recover(ctx context.Context) error {
	rebooted, err := s.checkBoot()
	if err != nil {
		return err
	}
	if err := s.recoverSandboxes(rebooted); err != nil {
		return fmt.Errorf("recover sandboxes: %w", err)
	}
	if err := s.recoverContainers(ctx, rebooted); err != nil {
		return fmt.Errorf("recover containers: %w", err)
	}
	s.sweepRunDir()
	return nil
}

// checkBoot says whether the machine restarted since the last time; then RunDir has
// nothing of worth.
func (s *Server) checkBoot() (rebooted bool, err error) {
	file := filepath.Join(s.dataDir, "boot-id")
	now := bootID()
	before, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(before)) == now {
		return false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	for _, dir := range []string{"containers", "sandboxes", "netns", "oci", "exits", "exec"} {
		path := filepath.Join(s.runDir, dir)
		if err := mounts.DetachBelow(path); err != nil {
			return true, err
		}
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return true, err
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
				return true, err
			}
		}
	}
	return true, os.WriteFile(file, []byte(now+"\n"), 0o600)
}

func (s *Server) recoverSandboxes(rebooted bool) error {
	files, err := filepath.Glob(filepath.Join(s.dataDir, "sandboxes", "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		sb := &sandbox{config: &cri.PodSandboxConfig{}}
		err := readRecord(file, &sb.rec)
		if err == nil {
			err = decode(sb.rec.Config, sb.config)
		}
		if err != nil || filepath.Base(file) != sb.rec.ID+".json" {
			s.log.Warn("A sandbox's record is damaged and was dropped", "file", file, "err", err)
			if err := os.Remove(file); err != nil {
				return err
			}
			continue
		}
		if rebooted || sb.rec.Phase == phaseCreating || (sb.rec.Phase == phaseReady && !s.pinned(sb)) {
			// Not ready: the kubelet stops and removes it, which undoes the rest.
			sb.rec.Phase = phaseStopped
			if err := writeRecord(file, &sb.rec); err != nil {
				return err
			}
		}
		s.sandboxes[sb.rec.ID] = sb
	}
	return nil
}

// pinned says whether the namespaces of a sandbox are still there.
func (s *Server) pinned(sb *sandbox) bool {
	if nsOptions(sb.config).GetNetwork() == cri.NamespaceMode_NODE {
		return true
	}
	ok, err := mountinfo.Mounted(filepath.Join(s.netnsDir(sb.rec.ID), "net"))
	return err == nil && ok
}

func (s *Server) recoverContainers(ctx context.Context, rebooted bool) error {
	entries, err := os.ReadDir(filepath.Join(s.dataDir, "containers"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		c, err := s.loadContainer(entry.Name())
		if err != nil {
			s.log.Warn("A container's record is damaged and the container is removed", "container", entry.Name(), "err", err)
			c.rec.Phase = phaseCreating
		}
		s.images.Hold(c.rec.ID, c.rec.Layers)
		for i, m := range c.config.GetMounts() {
			if img, err := s.images.Get(m.GetImage().GetImage()); m.GetImage().GetImage() != "" && err == nil {
				s.images.Hold(fmt.Sprintf("%s/%d", c.rec.ID, i), img.Layers)
			}
		}
		_, known := s.sandboxes[c.rec.SandboxID]
		if c.rec.Phase == phaseCreating || !known {
			if err := s.discard(ctx, c); err != nil {
				return fmt.Errorf("remove container %s: %w", c.rec.ID, err)
			}
			continue
		}
		if err := s.reconcile(ctx, c, rebooted); err != nil {
			return fmt.Errorf("container %s: %w", c.rec.ID, err)
		}
	}
	return nil
}

func (s *Server) loadContainer(id string) (*container, error) {
	c := &container{exited: make(chan struct{}), config: &cri.ContainerConfig{}, user: &cri.ContainerUser{}, resources: &cri.LinuxContainerResources{}}
	err := readRecord(s.containerFile(id), &c.rec)
	if err == nil && c.rec.ID != id {
		err = errors.New("it is another container's")
	}
	err = errors.Join(err, decode(c.rec.Config, c.config), decode(c.rec.User, c.user))
	if len(c.rec.Resources) > 0 && string(c.rec.Resources) != "null" {
		err = errors.Join(err, decode(c.rec.Resources, c.resources))
	} else if r := c.config.GetLinux().GetResources(); r != nil {
		c.resources = r
	}
	c.rec.ID = id
	return c, err
}

// reconcile compares a container's record with its processes.
func (s *Server) reconcile(ctx context.Context, c *container, rebooted bool) error {
	switch {
	case c.rec.Phase == phaseExited:
		close(c.exited)
		s.adopt(c)
		return nil
	case rebooted:
		c.rec.Phase, c.rec.ExitCode, c.rec.FinishedAt = phaseExited, exitUnknown, time.Now().UnixNano()
		c.rec.Reason, c.rec.Message = "Error", "the node was restarted"
		close(c.exited)
		s.adopt(c)
		return writeRecord(s.containerFile(c.rec.ID), &c.rec)
	}
	// Killed between the start and its note.
	if c.rec.Phase == phaseCreated && s.wasStarted(ctx, c.rec) {
		if err := s.update(c, func(r *containerRecord) { r.Phase, r.StartedAt = phaseRunning, time.Now().UnixNano() }); err != nil {
			return err
		}
	}
	s.adopt(c) // which sees it when conmon is gone
	if _, _, ok := s.readExit(c.rec.ID); ok {
		s.ended(c)
	}
	return nil
}

// wasStarted asks the OCI runtime whether a container's process runs its own
// program, or still waits for the start.
func (s *Server) wasStarted(ctx context.Context, rec containerRecord) bool {
	if !alive(rec.Pid, rec.PidStart) {
		return false
	}
	out, err := exec.CommandContext(ctx, rec.Runtime, "--root="+s.ociRoot(), "state", rec.ID).Output()
	var state struct {
		Status string `json:"status"`
	}
	return err == nil && json.Unmarshal(out, &state) == nil && state.Status == "running"
}

// isConmonOf checks that a process is the conmon of a container.
func isConmonOf(pid int, id string) bool {
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && bytes.Contains(cmdline, []byte(id)) && bytes.Contains(cmdline, []byte("--persist-dir"))
}

// sweepRunDir removes what no record knows.
func (s *Server) sweepRunDir() {
	sweep := func(dir string, known func(string) bool, remove func(string) error) {
		entries, err := os.ReadDir(filepath.Join(s.runDir, dir))
		if err != nil {
			return
		}
		for _, entry := range entries {
			if known(entry.Name()) {
				continue
			}
			if err := remove(filepath.Join(s.runDir, dir, entry.Name())); err != nil {
				s.log.Warn("Unknown files stay", "dir", dir, "name", entry.Name(), "err", err)
			}
		}
	}
	container := func(id string) bool { return s.containers[id] != nil }
	sandbox := func(id string) bool { return s.sandboxes[id] != nil }
	tree := func(path string) error {
		if err := mounts.DetachBelow(path); err != nil {
			return err
		}
		return os.RemoveAll(path)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sweep("containers", container, tree)
	sweep("exits", func(name string) bool { return container(name) }, os.Remove)
	sweep("sandboxes", sandbox, tree)
	sweep("netns", sandbox, netns.Remove)
	sweep("exec", execOwned, os.RemoveAll)
}

// hugetlbFile notes that the mount of the hugetlb controller is ours: boot id and
// mount point.
func (s *Server) hugetlbFile() string { return filepath.Join(s.dataDir, "hugetlb") }

func (s *Server) takeHugetlb() error {
	point, err := s.host.TakeHugetlb()
	if err != nil || point == "" {
		return err
	}
	s.log.Info("Mounted the hugetlb controller as cgroup v1: crun refuses this hybrid machine otherwise", "mountPoint", point)
	return os.WriteFile(s.hugetlbFile(), []byte(bootID()+" "+point+"\n"), 0o600)
}

func (s *Server) giveHugetlb() error {
	data, err := os.ReadFile(s.hugetlbFile())
	if err != nil {
		return nil //nolint:nilerr // not ours
	}
	boot, point, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	if boot != bootID() {
		return nil
	}
	if _, err := os.Stat(filepath.Join(point, podsCgroup)); err == nil {
		return nil // another Keelson's containers are in it
	}
	return cgroup.GiveHugetlb(point)
}
