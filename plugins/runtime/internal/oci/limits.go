package oci

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits is what this process may give to containers.
type Limits struct {
	Capabilities []string // own permitted ones, CAP_...
	OOMScoreAdj  int      // own
	FreeOOM      bool     // may go below its own (CAP_SYS_RESOURCE)
	OpenFiles    uint64   // own hard limit
}

// maxOpenFiles is a container's limit where the machine allows it.
const maxOpenFiles = 1 << 20

// ProbeLimits reads them from /proc.
func ProbeLimits() (Limits, error) {
	var l Limits
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return l, fmt.Errorf("read own capabilities: %w", err)
			}
			for i, name := range capabilityNames {
				if mask&(1<<i) != 0 {
					l.Capabilities = append(l.Capabilities, name)
				}
			}
		}
	}
	adj, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return l, err
	}
	if l.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(adj))); err != nil {
		return l, err
	}
	l.FreeOOM = slices.Contains(l.Capabilities, "CAP_SYS_RESOURCE")
	var rlimit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &rlimit); err != nil {
		return l, fmt.Errorf("read own limit of open files: %w", err)
	}
	l.OpenFiles = rlimit.Max
	return l, nil
}

// ClampOOM raises a score that this process may not give.
func (l Limits) ClampOOM(adj int) int {
	if !l.FreeOOM && adj < l.OOMScoreAdj {
		return l.OOMScoreAdj
	}
	return adj
}

// Rlimits answers the limits of a container's processes.
func (l Limits) Rlimits() []specs.POSIXRlimit {
	files := uint64(maxOpenFiles)
	if !l.FreeOOM {
		files = min(files, l.OpenFiles)
	}
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: files}}
}

// capabilityNames in the order of their numbers.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities are those that container users know.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func capabilities(security *cri.LinuxContainerSecurityContext, limits Limits) (*specs.LinuxCapabilities, error) {
	if security.GetPrivileged() {
		all := limits.Capabilities
		return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: nil}, nil
	}
	set := slices.Clone(defaultCapabilities)
	add, err := capabilityList(security.GetCapabilities().GetAddCapabilities(), limits)
	if err != nil {
		return nil, err
	}
	drop, err := capabilityList(security.GetCapabilities().GetDropCapabilities(), limits)
	if err != nil {
		return nil, err
	}
	addAll := hasAll(security.GetCapabilities().GetAddCapabilities())
	dropAll := hasAll(security.GetCapabilities().GetDropCapabilities())
	if addAll {
		set = slices.Clone(limits.Capabilities)
	}
	if dropAll {
		set = nil
	}
	if !addAll {
		set = append(set, add...)
	}
	if !dropAll {
		set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) })
	}
	set = slices.DeleteFunc(set, func(c string) bool { return !slices.Contains(limits.Capabilities, c) })
	slices.Sort(set)
	set = slices.Compact(set)
	ambient, err := capabilityList(security.GetCapabilities().GetAddAmbientCapabilities(), limits)
	if err != nil {
		return nil, err
	}
	for _, c := range ambient {
		if !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient}, nil
}

func hasAll(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, "ALL") })
}

func capabilityList(names []string, limits Limits) ([]string, error) {
	var out []string
	for _, name := range names {
		full := strings.ToUpper(name)
		if full == "ALL" {
			out = append(out, limits.Capabilities...)
			continue
		}
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if !slices.Contains(capabilityNames, full) {
			return nil, fmt.Errorf("capability %q is unknown: %w", name, ErrInvalid)
		}
		out = append(out, full)
	}
	return out, nil
}

// ParseSignal takes a name with or without SIG, a number, and SIGRTMIN+n, SIGRTMAX-n.
func ParseSignal(name string) (unix.Signal, error) {
	upper := strings.ToUpper(strings.TrimSpace(name))
	if n, err := strconv.Atoi(upper); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	if !strings.HasPrefix(upper, "SIG") {
		upper = "SIG" + upper
	}
	if s := unix.SignalNum(upper); s != 0 {
		return s, nil
	}
	const rtMin, rtMax = 34, 64
	upper = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(upper)
	if rest, ok := strings.CutPrefix(upper, "SIGRTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+")); err == nil && n <= rtMax-rtMin {
			return unix.Signal(rtMin + n), nil
		}
	}
	if rest, ok := strings.CutPrefix(upper, "SIGRTMAX"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "-")); err == nil && n <= rtMax-rtMin {
			return unix.Signal(rtMax - n), nil
		}
	}
	return 0, fmt.Errorf("signal %q is unknown: %w", name, ErrInvalid)
}
