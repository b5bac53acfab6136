package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts answers all mounts, outer ones first, and the propagation of the root.
func (in Input) mounts(security *cri.LinuxContainerSecurityContext) ([]specs.Mount, string, error) {
	sysMode := "ro"
	if security.GetPrivileged() {
		sysMode = "rw"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sysMode}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sysMode}},
	}
	bind := func(dst, src string, options ...string) {
		if src != "" {
			out = append(out, specs.Mount{Destination: dst, Type: "bind", Source: src, Options: append([]string{"rbind", "rprivate"}, options...)})
		}
	}
	rootMode := "rw"
	if security.GetReadonlyRootfs() {
		rootMode = "ro"
	}
	bind("/dev/shm", in.Shm, "rw", "nosuid", "nodev", "noexec")
	bind("/etc/hostname", in.HostnameFile, rootMode)
	bind("/etc/resolv.conf", in.ResolvConf, rootMode)

	propagation := "rprivate"
	for _, m := range in.Config.GetMounts() {
		mount, prop, err := in.bindMount(m)
		if err != nil {
			return nil, "", err
		}
		if prop == "rshared" || (prop == "rslave" && propagation != "rshared") {
			propagation = prop
		}
		dst := mount.Destination
		out = slices.DeleteFunc(out, func(o specs.Mount) bool { return o.Destination == dst })
		if dst == "/dev" { // the pod brings its own: what belongs below it as well
			out = slices.DeleteFunc(out, func(o specs.Mount) bool { return strings.HasPrefix(o.Destination, "/dev/") && o.Type != "bind" })
		}
		out = append(out, mount)
	}
	slices.SortStableFunc(out, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	return out, propagation, nil
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }

func (in Input) bindMount(m *cri.Mount) (specs.Mount, string, error) {
	dst := m.GetContainerPath()
	if dst == "" {
		return specs.Mount{}, "", fmt.Errorf("mount of %q has no container path: %w", m.GetHostPath(), ErrInvalid)
	}
	dst = filepath.Join("/", dst)
	src := m.GetHostPath()
	if m.GetImage().GetImage() != "" {
		src = in.ImageMounts[m.GetContainerPath()]
	} else {
		if !filepath.IsAbs(src) {
			return specs.Mount{}, "", fmt.Errorf("mount of %q on %s: the host path has to be absolute: %w", src, dst, ErrInvalid)
		}
		if _, err := os.Stat(src); os.IsNotExist(err) {
			if err := os.MkdirAll(src, 0o755); err != nil {
				return specs.Mount{}, "", fmt.Errorf("make host path of mount %s: %w", dst, err)
			}
		}
		real, err := filepath.EvalSymlinks(src)
		if err != nil {
			return specs.Mount{}, "", fmt.Errorf("mount of %s on %s: %w", src, dst, err)
		}
		src = real
	}
	if len(m.GetUidMappings()) > 0 || len(m.GetGidMappings()) > 0 {
		return specs.Mount{}, "", fmt.Errorf("mount on %s asks for mapped owners, which need user namespaces: %w", dst, ErrInvalid)
	}
	prop := "rprivate"
	switch m.GetPropagation() {
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		prop = "rslave"
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		prop = "rshared"
	}
	mode := "rw"
	switch {
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return specs.Mount{}, "", fmt.Errorf("mount on %s: recursively read-only needs read-only: %w", dst, ErrInvalid)
	case m.GetRecursiveReadOnly() && prop != "rprivate":
		return specs.Mount{}, "", fmt.Errorf("mount on %s: recursively read-only needs private propagation: %w", dst, ErrInvalid)
	case m.GetRecursiveReadOnly():
		mode = "rro"
	case m.GetReadonly() || m.GetImage().GetImage() != "":
		mode = "ro"
	}
	return specs.Mount{Destination: dst, Type: "bind", Source: src, Options: append([]string{"rbind", prop, mode}, m.GetMountOptions()...)}, prop, nil
}

// devices answers the nodes to make and what the device cgroup allows.
func (in Input) devices(privileged bool) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	if len(in.Config.GetCDIDevices()) > 0 {
		return nil, nil, fmt.Errorf("CDI devices are not supported: %w", ErrInvalid)
	}
	if privileged {
		devices, err := hostDevices("/dev", "/dev")
		return devices, []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, err
	}
	var devices []specs.LinuxDevice
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Config.GetDevices() {
		real, err := filepath.EvalSymlinks(d.GetHostPath())
		if err != nil {
			return nil, nil, fmt.Errorf("device %s: %w", d.GetHostPath(), err)
		}
		found, err := hostDevices(real, d.GetContainerPath())
		if err != nil {
			return nil, nil, err
		}
		access := d.GetPermissions()
		if access == "" {
			access = "rwm"
		}
		for _, device := range found {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: access})
		}
		devices = append(devices, found...)
	}
	return devices, rules, nil
}

// hostDevices lists a device, or those in and below a directory, under its name
// in the container.
func hostDevices(host, container string) ([]specs.LinuxDevice, error) {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return nil, fmt.Errorf("device %s: %w", host, err)
	}
	kind := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	case unix.S_IFDIR:
		return devicesBelow(host, container)
	default:
		return nil, fmt.Errorf("%s is not a device: %w", host, ErrInvalid)
	}
	mode := os.FileMode(st.Mode & 0o7777)
	return []specs.LinuxDevice{{Path: container, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)), FileMode: &mode, UID: &st.Uid, GID: &st.Gid}}, nil
}

func devicesBelow(host, container string) ([]specs.LinuxDevice, error) {
	entries, err := os.ReadDir(host)
	if err != nil {
		return nil, fmt.Errorf("devices below %s: %w", host, err)
	}
	var out []specs.LinuxDevice
	for _, entry := range entries {
		name := entry.Name()
		if host == "/dev" && slices.Contains([]string{"pts", "shm", "fd", "mqueue", "console", "ptmx", "tty", "null", "zero", "full", "random", "urandom"}, name) {
			continue // the OCI runtime makes these
		}
		if entry.Type()&os.ModeDevice == 0 && !entry.IsDir() {
			continue
		}
		found, err := hostDevices(filepath.Join(host, name), filepath.Join(container, name))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}
