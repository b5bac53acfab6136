// Package oci turns CRI's description of a container, and the image's, into the
// specification that an OCI runtime runs. It reads the image's file system and the
// machine's devices, changes nothing but missing directories of bind mounts, and
// starts no goroutine.
package oci

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrInvalid is wrapped where the request, not the machine, is at fault.
var ErrInvalid = errors.New("invalid container configuration")

// specVersion is what the oldest supported OCI runtimes know.
const specVersion = "1.0.2"

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Namespaces says which namespaces to join: a path, "" for a new one, Host for
// the machine's.
type Namespaces struct{ Network, IPC, UTS, PID string }

// Host in Namespaces means the machine's own.
const Host = "host"

// Input is all that a specification is made of.
type Input struct {
	Config     *cri.ContainerConfig
	Sandbox    *cri.PodSandboxConfig
	Image      *v1.ConfigFile
	Rootfs     string // mounted
	CgroupPath string
	Namespaces Namespaces
	Hostname   string
	// Files of the sandbox on the host; empty: not mounted.
	HostnameFile, ResolvConf, Shm string
	// ImageMounts are the host paths of mounts of images, by container path.
	ImageMounts map[string]string
	Limits      Limits
	CgroupV2    bool
	AppArmor    bool
	SeccompRoot string // directory of localhost profiles
}

// Result is the specification and what it resolved.
type Result struct {
	Spec       *specs.Spec
	User       *cri.ContainerUser
	StopSignal string
}

// Build makes the specification.
func Build(in Input) (*Result, error) {
	security := in.Config.GetLinux().GetSecurityContext()
	process, user, err := in.process(security)
	if err != nil {
		return nil, err
	}
	mounts, propagation, err := in.mounts(security)
	if err != nil {
		return nil, err
	}
	devices, rules, err := in.devices(security.GetPrivileged())
	if err != nil {
		return nil, err
	}
	seccomp, err := in.seccomp(security)
	if err != nil {
		return nil, err
	}
	resources := Resources(in.Config.GetLinux().GetResources(), in.CgroupV2)
	resources.Devices = rules
	linux := &specs.Linux{
		Namespaces:        in.namespaces(),
		CgroupsPath:       in.CgroupPath,
		Resources:         resources,
		Devices:           devices,
		Seccomp:           seccomp,
		RootfsPropagation: propagation,
	}
	if !security.GetPrivileged() {
		linux.MaskedPaths, linux.ReadonlyPaths = hiddenPaths(security)
	}
	spec := &specs.Spec{
		Version:     specVersion,
		Process:     process,
		Root:        &specs.Root{Path: in.Rootfs, Readonly: security.GetReadonlyRootfs()},
		Mounts:      mounts,
		Linux:       linux,
		Annotations: in.annotations(),
	}
	signal, err := in.stopSignal()
	if err != nil {
		return nil, err
	}
	return &Result{Spec: spec, User: user, StopSignal: signal}, nil
}

func (in Input) process(security *cri.LinuxContainerSecurityContext) (*specs.Process, *cri.ContainerUser, error) {
	args, err := in.args()
	if err != nil {
		return nil, nil, err
	}
	user, home, err := in.user(security)
	if err != nil {
		return nil, nil, err
	}
	caps, err := capabilities(security, in.Limits)
	if err != nil {
		return nil, nil, err
	}
	cwd := in.Config.GetWorkingDir()
	if cwd == "" {
		cwd = in.Image.Config.WorkingDir
	}
	adj := in.Limits.ClampOOM(int(in.Config.GetLinux().GetResources().GetOomScoreAdj()))
	process := &specs.Process{
		Terminal:        in.Config.GetTty(),
		User:            user,
		Args:            args,
		Env:             in.env(home),
		Cwd:             filepath.Join("/", cwd),
		Capabilities:    caps,
		NoNewPrivileges: security.GetNoNewPrivs() && !security.GetPrivileged(),
		OOMScoreAdj:     &adj,
		Rlimits:         in.Limits.Rlimits(),
	}
	if err := in.apparmor(process, security); err != nil {
		return nil, nil, err
	}
	groups := make([]int64, 0, len(user.AdditionalGids))
	for _, gid := range user.AdditionalGids {
		groups = append(groups, int64(gid))
	}
	return process, &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: int64(user.UID), Gid: int64(user.GID), SupplementalGroups: groups}}, nil
}

// args follows Docker's rule: a command drops the image's arguments too.
func (in Input) args() ([]string, error) {
	command, args := in.Config.GetCommand(), in.Config.GetArgs()
	if len(command) == 0 {
		command = in.Image.Config.Entrypoint
		if len(args) == 0 {
			args = in.Image.Config.Cmd
		}
	}
	all := slices.Concat(command, args)
	if len(all) == 0 {
		return nil, fmt.Errorf("no command: neither the container nor the image %s has one: %w", in.Config.GetImage().GetImage(), ErrInvalid)
	}
	return all, nil
}

func (in Input) env(home string) []string {
	var order []string
	values := map[string]string{}
	set := func(entry string) {
		key, _, _ := strings.Cut(entry, "=")
		if _, ok := values[key]; !ok {
			order = append(order, key)
		}
		values[key] = entry
	}
	set(defaultPath)
	if in.Config.GetTty() {
		set("TERM=xterm")
	}
	if in.Hostname != "" {
		set("HOSTNAME=" + in.Hostname)
	}
	if home != "" {
		set("HOME=" + home)
	}
	for _, entry := range in.Image.Config.Env {
		set(entry)
	}
	for _, kv := range in.Config.GetEnvs() {
		set(kv.GetKey() + "=" + string(kv.GetValue()))
	}
	out := make([]string, len(order))
	for i, key := range order {
		out[i] = values[key]
	}
	return out
}

func (in Input) namespaces() []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind specs.LinuxNamespaceType
		path string
	}{
		{specs.NetworkNamespace, in.Namespaces.Network}, {specs.IPCNamespace, in.Namespaces.IPC},
		{specs.UTSNamespace, in.Namespaces.UTS}, {specs.PIDNamespace, in.Namespaces.PID},
	} {
		if ns.path != Host {
			out = append(out, specs.LinuxNamespace{Type: ns.kind, Path: ns.path})
		}
	}
	if in.CgroupV2 && !in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

func (in Input) annotations() map[string]string {
	out := map[string]string{}
	maps.Copy(out, in.Config.GetAnnotations())
	return out
}

func (in Input) stopSignal() (string, error) {
	name := "SIGTERM"
	if in.Image.Config.StopSignal != "" {
		name = in.Image.Config.StopSignal
	}
	if s := in.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		name = strings.TrimPrefix(s.String(), "SIGNAL_")
	}
	if _, err := ParseSignal(name); err != nil {
		return "", err
	}
	return name, nil
}

func (in Input) apparmor(process *specs.Process, security *cri.LinuxContainerSecurityContext) error {
	profile := security.GetApparmor()
	if profile.GetProfileType() != cri.SecurityProfile_Localhost || profile == nil || security.GetPrivileged() {
		return nil
	}
	if !in.AppArmor {
		return fmt.Errorf("AppArmor profile %q is asked for, and this machine has no AppArmor: %w", profile.GetLocalhostRef(), ErrInvalid)
	}
	process.ApparmorProfile = strings.TrimPrefix(profile.GetLocalhostRef(), "localhost/")
	return nil
}

// hiddenPaths answers what a container sees masked or read-only. CRI has no way
// to tell "none" from "not said"; as an unmasked /proc is for user namespaces
// only, which this runtime has not, nothing said means the usual list.
func hiddenPaths(security *cri.LinuxContainerSecurityContext) (masked, readonly []string) {
	masked, readonly = security.GetMaskedPaths(), security.GetReadonlyPaths()
	if len(masked) == 0 && len(readonly) == 0 {
		masked = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
		readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	return masked, readonly
}
