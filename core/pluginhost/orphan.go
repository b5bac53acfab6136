package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// orphanGrace is what a plugin that an earlier host left over has to end by itself.
const orphanGrace = 2 * time.Second

// record tells one start of a plugin from all other processes, then and later.
type record struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat: a process number is used again, with
	// another start time.
	StartTime uint64 `json:"startTime"`
	// Instance is the value of pluginv1.InstanceEnv: start times are equal across boots.
	Instance string `json:"instance"`
}

// writeRecord notes a process that was just started.
func writeRecord(path string, pid int, instance string) error {
	start, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("record process %d: %w", pid, err)
	}
	data, err := json.Marshal(record{PID: pid, StartTime: start, Instance: instance})
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record process %d: %w", pid, err)
	}
	return nil
}

// startTime is when a process started.
func startTime(pid int) (uint64, error) {
	start, _, err := startOf(pid)
	return start, err
}

// startOf reads fields 22 and 4 of /proc/PID/stat, start time and parent; the name in
// field 2 may have spaces and parentheses.
func startOf(pid int) (start uint64, parent int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	const first = 3 // the field after the name
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= 22-first {
		return 0, 0, fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	if parent, err = strconv.Atoi(fields[4-first]); err != nil {
		return 0, 0, err
	}
	start, err = strconv.ParseUint(fields[22-first], 10, 64)
	return start, parent, err
}

// alive says whether the recorded process, and not another of its number, is there.
func (r record) alive() bool {
	if r.PID <= 1 || r.Instance == "" {
		return false
	}
	if start, err := startTime(r.PID); err != nil || start != r.StartTime {
		return false
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", r.PID))
	return err == nil && slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool {
		return string(v) == pluginv1.InstanceEnv+"="+r.Instance
	})
}

// sweep ends what an earlier host left over, and removes its files.
func (h *Host) sweep(ctx context.Context) {
	inherited, dirs := h.inheritedFiles()
	records, _ := filepath.Glob(filepath.Join(h.hostDir(), "*.json"))
	for _, path := range records {
		if slices.Contains(inherited, strings.TrimSuffix(filepath.Base(path), ".json")) {
			continue
		}
		var r record
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil {
			h.cfg.Log.Warn("Record of a plugin process is not readable", "path", path, "err", err)
		} else if r.alive() {
			h.cfg.Log.Warn("Ending a plugin process of an earlier kernel", "pid", r.PID, "path", path)
			r.end(ctx)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.cfg.Log.Warn("Record of a plugin process stays", "err", err)
		}
	}
	for _, name := range h.cgroups.names() {
		if slices.Contains(inherited, name) {
			continue
		}
		g := h.cgroups.of(name)
		g.kill()
		g.remove()
	}
	sockets, _ := filepath.Glob(filepath.Join(h.hostDir(), "plugin-dir*"))
	for _, dir := range sockets {
		if slices.Contains(dirs, dir) {
			continue
		}
		_ = os.RemoveAll(dir)
	}
}

// end asks the process to end, and kills it if it does not.
func (r record) end(ctx context.Context) {
	_ = syscall.Kill(r.PID, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, orphanGrace)
	defer cancel()
	for r.alive() {
		select {
		case <-ctx.Done():
			_ = syscall.Kill(r.PID, syscall.SIGKILL)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
