package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroups makes, limits and removes the pods' cgroups, on the unified hierarchy or on the older one with a mount per controller.
type cgroups struct {
	mount string // /sys/fs/cgroup
	root  string // parent of the pods' cgroups, as seen from mount
	v2    bool
}

var v1Controllers = []string{"cpu", "memory", "pids"}

func newCgroups(root string) *cgroups {
	return &cgroups{mount: "/sys/fs/cgroup", root: root, v2: cgroupV2("/sys/fs/cgroup")}
}

func cgroupV2(mount string) bool {
	var st unix.Statfs_t
	return unix.Statfs(mount, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// podPath is the cgroup of a pod, as the runtime takes it for cgroup_parent.
func (c *cgroups) podPath(uid string) string { return filepath.Join(c.root, "pod"+uid) }

// dirs lists the folders that make up a cgroup: one, or one per controller.
func (c *cgroups) dirs(path string) []string {
	if c.v2 {
		return []string{filepath.Join(c.mount, path)}
	}
	var out []string
	entries, _ := os.ReadDir(c.mount)
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode()&fs.ModeSymlink == 0 && info.IsDir() {
			out = append(out, filepath.Join(c.mount, e.Name(), path))
		}
	}
	return out
}

// create makes a pod's cgroup and writes its limits. Limits that the kernel does not offer are left out.
func (c *cgroups) create(uid string, r *runtimeapi.LinuxContainerResources, pids int64) error {
	path := c.podPath(uid)
	if c.v2 {
		if err := c.enableV2(path); err != nil {
			return err
		}
		dir := filepath.Join(c.mount, path)
		limits := map[string]string{"cpu.weight": strconv.FormatInt(1+((r.CpuShares-2)*9999)/262142, 10), "cpu.max": "max", "memory.max": "max"}
		if r.CpuQuota > 0 {
			limits["cpu.max"] = fmt.Sprintf("%d %d", r.CpuQuota, r.CpuPeriod)
		}
		if r.MemoryLimitInBytes > 0 {
			limits["memory.max"] = strconv.FormatInt(r.MemoryLimitInBytes, 10)
		}
		if pids > 0 {
			limits["pids.max"] = strconv.FormatInt(pids, 10)
		}
		return writeLimits(dir, limits)
	}
	limits := map[string]map[string]string{
		"cpu":    {"cpu.shares": strconv.FormatInt(r.CpuShares, 10)},
		"memory": {}, "pids": {},
	}
	if r.CpuQuota > 0 {
		limits["cpu"]["cpu.cfs_period_us"] = strconv.FormatInt(r.CpuPeriod, 10)
		limits["cpu"]["cpu.cfs_quota_us"] = strconv.FormatInt(r.CpuQuota, 10)
	}
	if r.MemoryLimitInBytes > 0 {
		limits["memory"]["memory.limit_in_bytes"] = strconv.FormatInt(r.MemoryLimitInBytes, 10)
	}
	if pids > 0 {
		limits["pids"]["pids.max"] = strconv.FormatInt(pids, 10)
	}
	for _, controller := range v1Controllers {
		base := filepath.Join(c.mount, controller)
		if _, err := os.Stat(base); err != nil {
			continue
		}
		dir := filepath.Join(base, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup of pod %s: %w", uid, err)
		}
		if err := writeLimits(dir, limits[controller]); err != nil {
			return err
		}
	}
	return nil
}

// enableV2 makes the path and switches the controllers on at each level above it.
func (c *cgroups) enableV2(path string) error {
	dir := c.mount
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		for _, controller := range []string{"+cpu", "+memory", "+pids", "+io", "+cpuset"} {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(controller), 0) // a controller may be missing
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create cgroup: %w", err)
		}
	}
	return nil
}

func writeLimits(dir string, limits map[string]string) error {
	for _, file := range sortedKeys(limits) {
		err := os.WriteFile(filepath.Join(dir, file), []byte(limits[file]), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("limit cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// remove takes a pod's cgroup away, with all below it. A cgroup that still has processes is an error.
func (c *cgroups) remove(uid string) error { return c.removePath(c.podPath(uid)) }

func (c *cgroups) removePath(path string) error {
	var errs []error
	for _, dir := range c.dirs(path) {
		var all []string
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, p)
			}
			return nil
		})
		slices.Reverse(all)
		for _, d := range all {
			if err := unix.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", d, err))
			}
		}
	}
	return errors.Join(errs...)
}
