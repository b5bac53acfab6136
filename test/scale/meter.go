package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// meter reads what processes have used from /proc.
type meter struct {
	parent  int
	pidfile string
	fixed   map[string]int // processes by name
}

// usage is of one process.
type usage struct {
	cpu time.Duration
	pss int64 // bytes
	rss int64
}

// read gives the usage of each process by name.
func (m *meter) read() map[string]usage {
	out := map[string]usage{}
	for name, pid := range m.processes() {
		out[name] = usage{cpu: cpuTime(pid), pss: field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:"), rss: field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")}
	}
	return out
}

// processes are those to be measured, by name.
func (m *meter) processes() map[string]int {
	out := maps.Clone(m.fixed)
	if m.pidfile != "" {
		text, _ := os.ReadFile(m.pidfile)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 {
				if pid, err := strconv.Atoi(f[1]); err == nil {
					out[f[0]] = pid
				}
			}
		}
	}
	if m.parent == 0 {
		return out
	}
	out["kernel"] = m.parent
	stats, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		args := strings.Split(string(text), "\x00")
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(args) > 2 && args[1] == "plugin-run" && ancestor(pid, m.parent) {
			out[args[2]] = pid
		}
	}
	return out
}

// ancestor tells whether pid descends from parent.
func ancestor(pid, parent int) bool {
	for range 5 {
		if pid == parent {
			return true
		}
		f := stat(pid)
		if len(f) < 2 {
			return false
		}
		pid, _ = strconv.Atoi(f[1])
	}
	return false
}

// stat are the fields of /proc/PID/stat (proc(5)) from the state on.
func stat(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, after, _ := strings.Cut(string(text), ") ")
	return strings.Fields(after)
}

// tick is the unit of utime and stime (USER_HZ).
const tick = time.Second / 100

func cpuTime(pid int) time.Duration {
	f := stat(pid)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * tick
}

// field is a line of kilobytes.
func field(file, name string) int64 {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// row is a line of the table.
func row(name string, took time.Duration, before, after map[string]usage, err error) string {
	var total time.Duration
	var cpu, memory []string
	for _, process := range slices.Sorted(maps.Keys(after)) {
		used := after[process].cpu - before[process].cpu
		if used < 0 { // another process of that name
			used = after[process].cpu
		}
		total += used
		cpu = append(cpu, fmt.Sprintf("%s %.1f", process, used.Seconds()))
		memory = append(memory, fmt.Sprintf("%s %d", process, after[process].pss>>20))
	}
	if err != nil {
		name += " (NOT DONE: " + err.Error() + ")"
	}
	return fmt.Sprintf("| %s | %.1f s | %.1f s | %s | %s |", name, took.Seconds(), total.Seconds(), strings.Join(cpu, ", "), strings.Join(memory, ", "))
}
