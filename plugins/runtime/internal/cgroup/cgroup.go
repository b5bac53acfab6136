// Package cgroup finds, makes, reads and removes control groups, on cgroup v2, on
// v1 and on the hybrid of both. Paths are as the kubelet says them (/keelson/pods/
// pod<UID>/<container>), relative to the root of each hierarchy. The only
// goroutine is a Spawner's.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Root of the whole tree of Keelson's own cgroups.
const Root = "/keelson"

// Host is how this machine's cgroups are mounted.
type Host struct {
	V2      bool              // the unified hierarchy has the controllers
	Unified string            // mount point of cgroup2; may be empty on v1
	V1      map[string]string // v1 controller -> mount point
}

// Detect reads the mount table.
func Detect() (*Host, error) {
	h := &Host{V1: map[string]string{}}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("read the cgroup mounts: %w", err)
	}
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			if h.Unified == "" {
				h.Unified = m.Mountpoint
			}
			continue
		}
		for opt := range strings.SplitSeq(m.VFSOptions, ",") {
			if name, ok := strings.CutPrefix(opt, "name="); ok {
				opt = "name=" + name
			} else if opt == "rw" || opt == "ro" || strings.Contains(opt, "=") || opt == "xattr" || opt == "noprefix" || opt == "clone_children" {
				continue
			}
			if _, ok := h.V1[opt]; !ok {
				h.V1[opt] = m.Mountpoint
			}
		}
	}
	h.V2 = len(h.V1) == 0 || (len(h.V1) == 1 && h.V1["name=systemd"] != "")
	if h.V2 && h.Unified == "" {
		return nil, errors.New("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return h, nil
}

// Dirs answers the directory of path in each hierarchy.
func (h *Host) Dirs(path string) []string {
	var roots []string
	if h.Unified != "" {
		roots = append(roots, h.Unified)
	}
	for _, root := range h.V1 {
		if !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	slices.Sort(roots)
	for i := range roots {
		roots[i] = filepath.Join(roots[i], path)
	}
	return roots
}

// dir answers the directory of path in one controller's hierarchy.
func (h *Host) dir(controller, path string) string {
	if h.V2 {
		return filepath.Join(h.Unified, path)
	}
	root := h.V1[controller]
	if root == "" {
		return ""
	}
	return filepath.Join(root, path)
}

// Create makes path in each hierarchy. On v1 a new cpuset is empty, and takes no
// process: it gets its parent's.
func (h *Host) Create(path string) error {
	for _, dir := range h.Dirs(path) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
	}
	if root := h.V1["cpuset"]; root != "" {
		dir := root
		for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
			dir = filepath.Join(dir, part)
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(dir, file); err != nil {
					return fmt.Errorf("make cgroup %s: %w", path, err)
				}
			}
		}
	}
	return nil
}

func inherit(dir, file string) error {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || strings.TrimSpace(string(data)) != "" {
		return err
	}
	data, err = os.ReadFile(filepath.Join(filepath.Dir(dir), file))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), data, 0o644)
}

// Procs lists the processes of path and of all below it.
func (h *Host) Procs(path string) []int {
	seen := map[int]bool{}
	for _, dir := range h.Dirs(path) {
		_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.IsDir() {
				return nil
			}
			data, err := os.ReadFile(filepath.Join(name, "cgroup.procs"))
			if err != nil {
				return nil
			}
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// Kill kills all processes in path and below but this one (which may have a thread
// there, a Spawner's), and waits until they are gone.
func (h *Host) Kill(ctx context.Context, path string) error {
	for {
		if h.Unified != "" {
			_ = os.WriteFile(filepath.Join(h.Unified, path, "cgroup.kill"), []byte("1"), 0o644) // since 5.14; kill below does it too
		}
		pids := slices.DeleteFunc(h.Procs(path), func(pid int) bool { return pid == os.Getpid() })
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, path, err)
			}
		}
		if err := wait(ctx, 2*time.Millisecond); err != nil {
			return fmt.Errorf("processes %v of cgroup %s do not end: %w", pids, path, err)
		}
	}
}

// Remove removes path and all below it. A cgroup stays busy for a moment after its
// last process has ended, so it tries until ctx ends. Missing ones are no error.
func (h *Host) Remove(ctx context.Context, path string) error {
	if path == "" || path == "/" {
		return errors.New("the root cgroup is not removed")
	}
	for _, dir := range h.Dirs(path) {
		for {
			err := removeTree(dir)
			if err == nil {
				break
			}
			if werr := wait(ctx, 2*time.Millisecond); werr != nil || !errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
	}
	return nil
}

// RemoveEmpty removes path, which may stay when it is in use.
func (h *Host) RemoveEmpty(path string) {
	for _, dir := range h.Dirs(path) {
		_ = unix.Rmdir(dir)
	}
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
