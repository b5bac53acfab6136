package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stats is what a cgroup has used.
type Stats struct {
	Time            time.Time
	CPU             time.Duration
	Usage           uint64 // bytes, page cache included
	WorkingSet      uint64 // bytes that cannot be dropped at once
	RSS             uint64
	Limit           uint64 // 0: none
	PageFaults      uint64
	MajorPageFaults uint64
	Swap            uint64
	Pids            uint64
}

// Stats reads the counters of path, including all below it. Missing files count as
// zero; ok is false when the cgroup is gone.
func (h *Host) Stats(path string) (s Stats, ok bool) {
	s.Time = time.Now()
	mem := h.dir("memory", path)
	if _, err := os.Stat(mem); mem == "" || err != nil {
		return s, false
	}
	if h.V2 {
		s.CPU = time.Duration(keyed(filepath.Join(mem, "cpu.stat"))["usage_usec"]) * time.Microsecond
		s.Usage = number(filepath.Join(mem, "memory.current"))
		s.Limit = number(filepath.Join(mem, "memory.max"))
		s.Swap = number(filepath.Join(mem, "memory.swap.current"))
		stat := keyed(filepath.Join(mem, "memory.stat"))
		s.WorkingSet = minus(s.Usage, stat["inactive_file"])
		s.RSS, s.PageFaults, s.MajorPageFaults = stat["anon"], stat["pgfault"], stat["pgmajfault"]
		s.Pids = number(filepath.Join(mem, "pids.current"))
		return s, true
	}
	s.CPU = time.Duration(number(filepath.Join(h.dir("cpuacct", path), "cpuacct.usage")))
	s.Usage = number(filepath.Join(mem, "memory.usage_in_bytes"))
	if limit := number(filepath.Join(mem, "memory.limit_in_bytes")); limit < 1<<62 {
		s.Limit = limit
	}
	stat := keyed(filepath.Join(mem, "memory.stat"))
	s.WorkingSet = minus(s.Usage, stat["total_inactive_file"])
	s.RSS, s.PageFaults, s.MajorPageFaults = stat["total_rss"], stat["total_pgfault"], stat["total_pgmajfault"]
	s.Swap = stat["total_swap"]
	s.Pids = number(filepath.Join(h.dir("pids", path), "pids.current"))
	return s, true
}

// OOMKills says how many processes of path the kernel killed for want of memory.
func (h *Host) OOMKills(path string) uint64 {
	dir := h.dir("memory", path)
	if dir == "" {
		return 0
	}
	if h.V2 {
		return keyed(filepath.Join(dir, "memory.events"))["oom_kill"]
	}
	return keyed(filepath.Join(dir, "memory.oom_control"))["oom_kill"]
}

func minus(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// number reads a file of one number; "max" and faults are 0.
func number(file string) uint64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func keyed(file string) map[string]uint64 {
	out := map[string]uint64{}
	data, err := os.ReadFile(file)
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				out[key] = n
			}
		}
	}
	return out
}
