package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// v1Controllers are the hierarchies of cgroup v1 in which plugins get a group. Others
// need settings before they take a process (cpuset), or say nothing here.
var v1Controllers = []string{"cpu", "cpuacct", "memory", "pids"}

// cgroups makes and clears the plugins' cgroups. The zero number of hierarchies is the
// machine (or container) on which there are none to write to: all methods do nothing.
type cgroups struct {
	parent string   // "/keelson/plugins"
	roots  []string // mount points of the hierarchies
}

// newCgroups finds the hierarchies in which parent can be made. If there is none, it
// says so once, and plugins run without.
func newCgroups(parent string, log *slog.Logger) *cgroups {
	c := &cgroups{parent: parent}
	if parent == "none" {
		return c
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	var errs []error
	for _, root := range hierarchies(string(mounts)) {
		if err := os.MkdirAll(filepath.Join(root, parent), 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		c.roots = append(c.roots, root)
		enableControllers(root, parent)
	}
	if len(c.roots) == 0 {
		log.Warn("Plugins run without cgroups of their own", "err", errors.Join(append(errs, err)...))
	}
	return c
}

// hierarchies are the mount points in /proc/self/mounts that take a plugin's process.
func hierarchies(mounts string) []string {
	var roots []string
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		options := strings.Split(f[3], ",")
		wanted := f[2] == "cgroup2" || f[2] == "cgroup" &&
			slices.ContainsFunc(v1Controllers, func(c string) bool { return slices.Contains(options, c) })
		if wanted && !slices.Contains(roots, f[1]) {
			roots = append(roots, f[1])
		}
	}
	return roots
}

// enableControllers makes use and limits visible in the groups below parent on cgroup
// v2. It is for accounting only, so a refusal (v1, a container) is no matter.
func enableControllers(root, parent string) {
	dir := root
	for part := range strings.SplitSeq(strings.Trim(parent, "/"), "/") {
		for _, c := range []string{"+cpu", "+memory", "+pids"} {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(c), 0o644)
		}
		dir = filepath.Join(dir, part)
	}
	for _, c := range []string{"+cpu", "+memory", "+pids"} {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(c), 0o644)
	}
}

// cgroup is one plugin's group, in all hierarchies.
type cgroup struct{ dirs []string }

func (c *cgroups) of(name string) *cgroup {
	g := &cgroup{}
	for _, root := range c.roots {
		g.dirs = append(g.dirs, filepath.Join(root, c.parent, name))
	}
	return g
}

// names are the plugins that have a group.
func (c *cgroups) names() []string {
	var names []string
	for _, root := range c.roots {
		entries, _ := os.ReadDir(filepath.Join(root, c.parent))
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

// removeParent removes what newCgroups made, as far as it is empty.
func (c *cgroups) removeParent() {
	for _, root := range c.roots {
		for dir := filepath.Join(root, c.parent); dir != root; dir = filepath.Dir(dir) {
			if os.Remove(dir) != nil {
				break
			}
		}
	}
}

// join makes the group, if it is not there, and moves a process into it.
func (g *cgroup) join(pid int) error {
	if err := g.make(); err != nil {
		return err
	}
	for _, dir := range g.dirs {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
		if err != nil && !errors.Is(err, syscall.ESRCH) { // ended already: the caller learns it otherwise
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// members are the processes in the group in every hierarchy. One that was moved out of
// any of them (conmon, a container) has left the plugin and is not counted.
func (g *cgroup) members() []int {
	var pids []int
	for i, dir := range g.dirs {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return nil
		}
		var here []int
		for f := range bytes.FieldsSeq(data) {
			if pid, err := strconv.Atoi(string(f)); err == nil && (i == 0 || slices.Contains(pids, pid)) {
				here = append(here, pid)
			}
		}
		pids = here
	}
	return pids
}

// kill ends all members, and waits a little for them to be gone.
func (g *cgroup) kill() {
	for range 50 {
		pids := g.members()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// remove removes the group; where a process is still in it, it stays.
func (g *cgroup) remove() {
	for _, dir := range g.dirs {
		_ = os.Remove(dir)
	}
}
