package runtime

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
)

// ownCgroups lists the cgroups of the sandboxes and containers that dataDir and the running conmons of runDir tell of. There may be another
// Keelson on the machine, whose pods are in the same tree.
func ownCgroups(host *cgroup.Host, dataDir, runDir string) []string {
	var out []string
	files, _ := filepath.Glob(filepath.Join(dataDir, "containers", "*", "record.json"))
	for _, file := range files {
		var rec containerRecord
		if readRecord(file, &rec) == nil && rec.CgroupPath != "" {
			out = append(out, rec.CgroupPath)
		}
	}
	for _, m := range conmons(runDir) { // whose record may be damaged
		for _, dir := range host.Dirs(podsCgroup) {
			found, _ := filepath.Glob(filepath.Join(dir, "*", m.container))
			for _, path := range found {
				out = append(out, filepath.Join(podsCgroup, filepath.Base(filepath.Dir(path)), m.container))
			}
		}
	}
	files, _ = filepath.Glob(filepath.Join(dataDir, "sandboxes", "*.json"))
	for _, file := range files { // after what is in them
		var rec sandboxRecord
		if readRecord(file, &rec) == nil && strings.HasPrefix(rec.CgroupParent, podsCgroup+"/") {
			out = append(out, rec.CgroupParent)
		}
	}
	return out
}

// monitor is a running conmon.
type monitor struct {
	pid       int
	container string
}

// conmons lists the conmons that were started for runDir.
func conmons(runDir string) []monitor {
	var out []monitor
	exits := (&Server{runDir: runDir}).exitDir()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !bytes.Contains(data, []byte(exits)) {
			continue
		}
		args := strings.Split(string(data), "\x00")
		if id := argument(args, "--cid"); id != "" && argument(args, "--exit-dir") == exits {
			out = append(out, monitor{pid, id})
		}
	}
	return out
}

// argument answers what follows name.
func argument(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// purgeProcesses kills what is left of this Keelson's containers and conmons, and removes their cgroups.
func purgeProcesses(ctx context.Context, host *cgroup.Host, paths []string, runDir string) error {
	var errs []error
	for _, m := range conmons(runDir) {
		if err := unix.Kill(m.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	for _, path := range paths {
		errs = append(errs, host.Kill(ctx, path), host.Remove(ctx, path))
	}
	for _, path := range []string{podsCgroup, conmonCgroup, cgroup.Root} {
		host.RemoveEmpty(path)
	}
	return errors.Join(errs...)
}
