package pluginhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cpuPeriod is that of the CPU limit, in microseconds; Linux' own default.
const cpuPeriod = 100_000

// limitFile is a limit in one of the files that may have it.
type limitFile struct {
	file, value string
	// optional files are written where they are there.
	optional bool
}

// files are what a limit is written to: of the first line that a hierarchy has, all.
func (l Limits) files() map[string][][]limitFile {
	out := map[string][][]limitFile{}
	if l.Memory > 0 {
		n := strconv.FormatInt(l.Memory, 10)
		out["memory"] = [][]limitFile{
			{{file: "memory.max", value: n}, {file: "memory.swap.max", value: "0", optional: true}},
			{{file: "memory.limit_in_bytes", value: n}, {file: "memory.memsw.limit_in_bytes", value: n, optional: true}},
		}
	}
	if l.MilliCPU > 0 {
		quota := strconv.FormatInt(l.MilliCPU*cpuPeriod/1000, 10)
		out["cpu"] = [][]limitFile{
			{{file: "cpu.max", value: quota + " " + strconv.Itoa(cpuPeriod)}},
			{{file: "cpu.cfs_period_us", value: strconv.Itoa(cpuPeriod)}, {file: "cpu.cfs_quota_us", value: quota}},
		}
	}
	if l.Pids > 0 {
		out["pids"] = [][]limitFile{{{file: "pids.max", value: strconv.FormatInt(l.Pids, 10)}}}
	}
	return out
}

// limit sets the group's limits. The error names those that the machine refuses.
func (g *cgroup) limit(l Limits) error {
	var errs []error
	for name, ways := range l.files() {
		if err := g.limitOne(ways); err != nil {
			errs = append(errs, fmt.Errorf("spec.resources.limits.%s is not in force: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// limitOne writes one limit where it can be written.
func (g *cgroup) limitOne(ways [][]limitFile) error {
	for _, dir := range g.dirs {
		for _, files := range ways {
			if _, err := os.Stat(filepath.Join(dir, files[0].file)); err != nil {
				continue
			}
			for _, f := range files {
				err := os.WriteFile(filepath.Join(dir, f.file), []byte(f.value), 0o644)
				if err != nil && (!f.optional || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission)) {
					return err
				}
			}
			return nil
		}
	}
	return errors.New("the machine has no cgroup controller for it")
}

// make makes the group.
func (g *cgroup) make() error {
	for _, dir := range g.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// oomKilled says whether Linux killed a process of the group for want of memory.
func (g *cgroup) oomKilled() bool {
	for _, dir := range g.dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
					return true
				}
			}
		}
	}
	return false
}
