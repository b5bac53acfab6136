package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/mounts"
)

const (
	// outliveFile is in the data folder of a plugin whose program moves processes out of
	// the plugin's cgroup: where they are.
	outliveFile = "outlive.json"
	// endGrace is how long such processes have after SIGTERM, endPause between two looks.
	endGrace, endPause = 10 * time.Second, 50 * time.Millisecond
	// ownGroups begins the cgroups of containers, which the kubelet names.
	ownGroups = "/keelson/"
)

// outlive is what a program may leave when it ends.
type outlive struct {
	Cgroups []string `json:"cgroups"`
}

// note keeps where the program's processes may go, for StopAll.
func (s *Server) note() error {
	if len(s.cfg.Cgroups) == 0 {
		return nil
	}
	data, err := json.Marshal(outlive{s.cfg.Cgroups})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.env.DataDir, outliveFile), data, 0o600)
}

// StopAll ends what programs have left outside of their plugins' cgroups, such as the shims
// of a container runtime and the containers below them, for when Keelson is taken down. The
// processes get ten seconds, then they are killed; their network namespaces, mounts and
// cgroups go with them. dataDir and runDir are those that the plugin host gives to all
// plugins; none may run. What is another cluster's in the same cgroups stays.
func StopAll(ctx context.Context, dataDir, runDir string, log *slog.Logger) error {
	records, err := filepath.Glob(filepath.Join(dataDir, "*", outliveFile))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range records {
		name := filepath.Base(filepath.Dir(path))
		data, err := os.ReadFile(path)
		var left outlive
		if err == nil {
			err = json.Unmarshal(data, &left)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("what plugin %s left: %w", name, err))
			continue
		}
		if err := left.end(ctx, []string{filepath.Dir(path), filepath.Join(runDir, name)}, log.With("plugin", name)); err != nil {
			errs = append(errs, fmt.Errorf("end what plugin %s left: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// end ends the processes in the cgroups that have to do with the plugin's folders, and all
// below them.
func (o outlive) end(ctx context.Context, dirs []string, log *slog.Logger) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	tree := o.processes(roots, dirs)
	if len(tree) > 0 {
		log.Info("Ending what the program left", "processes", len(tree))
	}
	spaces, groups := netNamespaces(tree), cgroupsOf(tree)
	send(tree, unix.SIGTERM)
	for deadline := time.Now().Add(endGrace); len(tree) > 0; {
		if time.Now().After(deadline) || ctx.Err() != nil {
			send(tree, unix.SIGKILL)
		}
		<-time.After(endPause)
		tree = append(o.processes(roots, dirs), slices.DeleteFunc(tree, func(p proc) bool { return !p.lives() })...)
		if time.Now().After(deadline.Add(endGrace)) {
			return fmt.Errorf("%d processes do not end, process %d for one", len(tree), tree[0].pid)
		}
	}
	errs := []error{unmountNamespaces(spaces)}
	for _, dir := range dirs {
		errs = append(errs, mounts.DetachBelow(dir))
	}
	for _, root := range roots {
		for _, group := range append(groups, o.Cgroups...) {
			removeGroups(root.Mountpoint, group)
		}
	}
	return errors.Join(errs...)
}

// proc is a process, with its start time so that its number is not taken for another's.
type proc struct {
	pid, parent int
	start       string
}

// lives says whether it has not ended; a zombie has.
func (p proc) lives() bool {
	now, state, ok := readProc(p.pid)
	return ok && now.start == p.start && state != "Z" && state != "X"
}

func readProc(pid int) (p proc, state string, ok bool) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return p, "", false
	}
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ") // proc(5): the name before may hold anything
	f := strings.Fields(rest)
	if len(f) < 20 {
		return p, "", false
	}
	parent, err := strconv.Atoi(f[1])
	return proc{pid: pid, parent: parent, start: f[19]}, f[0], err == nil
}

// processes are those in the cgroups that lie in, or name, one of the folders, and all
// their descendants, which may be in other cgroups.
func (o outlive) processes(roots []*mountinfo.Info, dirs []string) []proc {
	ours := map[int]bool{}
	for _, root := range roots {
		for _, group := range o.Cgroups {
			data, _ := os.ReadFile(filepath.Join(root.Mountpoint, group, "cgroup.procs"))
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && concerns(pid, dirs) {
					ours[pid] = true
				}
			}
		}
	}
	if len(ours) == 0 {
		return nil
	}
	entries, _ := os.ReadDir("/proc")
	var all, out []proc
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, state, ok := readProc(pid); ok && state != "Z" {
				all = append(all, p)
			}
		}
	}
	for grown := true; grown; {
		grown = false
		for _, p := range all {
			if !ours[p.pid] && ours[p.parent] {
				ours[p.pid], grown = true, true
			}
		}
	}
	for _, p := range all {
		if ours[p.pid] {
			out = append(out, p)
		}
	}
	return out
}

// concerns says whether a process works in one of the folders, or was told of it.
func concerns(pid int, dirs []string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	for _, d := range dirs {
		if strings.HasPrefix(cwd, d+"/") || bytes.Contains(args, []byte(d+"/")) {
			return true
		}
	}
	return false
}

func send(tree []proc, sig unix.Signal) {
	for _, p := range tree {
		if p.lives() {
			_ = unix.Kill(p.pid, sig) // one that has ended is what is wanted
		}
	}
}

// netNamespaces are the processes' own, as the kernel names them: net:[4026531840].
func netNamespaces(tree []proc) []string {
	host, _ := os.Readlink("/proc/self/ns/net")
	init, _ := os.Readlink("/proc/1/ns/net")
	var out []string
	for _, p := range tree {
		if ns, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.pid), "ns/net")); err == nil && ns != host && ns != init && !slices.Contains(out, ns) {
			out = append(out, ns)
		}
	}
	return out
}

// unmountNamespaces removes the files at which namespaces are kept, as in /run/netns.
func unmountNamespaces(spaces []string) error {
	if len(spaces) == 0 {
		return nil
	}
	kept, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("nsfs"))
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	var errs []error
	for _, m := range kept {
		if !slices.Contains(spaces, m.Root) {
			continue
		}
		if err := mounts.Detach(m.Mountpoint); err != nil {
			errs = append(errs, fmt.Errorf("network namespace: %w", err))
			continue
		}
		if err := os.Remove(m.Mountpoint); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hierarchies are the mounts of cgroups, each once.
func hierarchies() ([]*mountinfo.Info, error) {
	found, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find the cgroup hierarchies: %w", err)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(found, func(m *mountinfo.Info) bool {
		again := seen[m.Mountpoint]
		seen[m.Mountpoint] = true
		return again
	}), nil
}

// cgroupsOf are Keelson's groups in which the processes are, in any hierarchy.
func cgroupsOf(tree []proc) []string {
	var out []string
	for _, p := range tree {
		data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid), "cgroup"))
		for line := range strings.Lines(string(data)) {
			f := strings.SplitN(strings.TrimSpace(line), ":", 3) // cgroups(7): hierarchy:controllers:path
			if len(f) == 3 && strings.HasPrefix(f[2], ownGroups) && !slices.Contains(out, f[2]) {
				out = append(out, f[2])
			}
		}
	}
	return out
}

// removeGroups removes a group and those above it that this leaves empty.
func removeGroups(root, group string) {
	for group = filepath.Clean(group); group != "/" && group != "."; group = filepath.Dir(group) {
		if os.Remove(filepath.Join(root, group)) != nil {
			return
		}
	}
}
