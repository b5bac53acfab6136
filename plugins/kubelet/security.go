package kubelet

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths that a container sees masked or read-only unless procMount says otherwise; the defaults of Kubernetes.
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// namespaceOptions says which namespaces a pod's sandbox and containers share.
func namespaceOptions(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostPID {
		o.Pid = runtimeapi.NamespaceMode_NODE
	} else if optional(pod.Spec.ShareProcessNamespace) {
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	return o
}

// sandboxSecurity is the sandbox's security context, from the pod's.
func sandboxSecurity(pod *corev1.Pod) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: namespaceOptions(pod), Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}}
	for i := range pod.Spec.Containers {
		out.Privileged = out.Privileged || privileged(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		out.Privileged = out.Privileged || privileged(&pod.Spec.InitContainers[i])
	}
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return out
	}
	out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
	out.SupplementalGroups = supplementalGroups(sc)
	out.SelinuxOptions = selinux(sc.SELinuxOptions)
	if sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return out
}

func supplementalGroups(sc *corev1.PodSecurityContext) []int64 {
	if sc == nil {
		return nil
	}
	groups := append([]int64(nil), sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return groups
}

func privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && optional(c.SecurityContext.Privileged)
}

// effectiveSecurity merges the pod's context into the container's; what the container says wins.
func effectiveSecurity(pod *corev1.Pod, c *corev1.Container) *corev1.SecurityContext {
	out := &corev1.SecurityContext{}
	if c.SecurityContext != nil {
		out = c.SecurityContext.DeepCopy()
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	if out.RunAsUser == nil {
		out.RunAsUser = p.RunAsUser
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = p.RunAsGroup
	}
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = p.RunAsNonRoot
	}
	if out.SELinuxOptions == nil {
		out.SELinuxOptions = p.SELinuxOptions
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = p.SeccompProfile
	}
	if out.AppArmorProfile == nil {
		out.AppArmorProfile = p.AppArmorProfile
	}
	return out
}

// containerSecurity is a container's security context; image is what the runtime knows of the user that the image names.
func containerSecurity(pod *corev1.Pod, c *corev1.Container, image *runtimeapi.Image, seccompDir string) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, c)
	if err := verifyNonRoot(sc, c.Name, pod, image); err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaceOptions(pod),
		Privileged:         optional(sc.Privileged),
		ReadonlyRootfs:     optional(sc.ReadOnlyRootFilesystem),
		RunAsUser:          int64Value(sc.RunAsUser),
		RunAsGroup:         int64Value(sc.RunAsGroup),
		SupplementalGroups: supplementalGroups(pod.Spec.SecurityContext),
		SelinuxOptions:     selinux(sc.SELinuxOptions),
		NoNewPrivs:         sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		MaskedPaths:        maskedPaths,
		ReadonlyPaths:      readonlyPaths,
		Capabilities:       &runtimeapi.Capability{},
	}
	if ps := pod.Spec.SecurityContext; ps != nil && ps.SupplementalGroupsPolicy != nil && *ps.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	}
	if sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount || out.Privileged {
		out.MaskedPaths, out.ReadonlyPaths = nil, nil
	}
	if sc.Capabilities != nil {
		for _, cap := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, capName(cap))
		}
		for _, cap := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, capName(cap))
		}
	}
	if out.RunAsUser == nil && image != nil {
		// What the image says; the runtime looks names up in the image's passwd file.
		if image.Uid != nil {
			out.RunAsUser = image.Uid
		} else {
			out.RunAsUsername = image.Username
		}
	}
	out.Seccomp = seccomp(sc.SeccompProfile, seccompDir)
	if a := sc.AppArmorProfile; a != nil {
		out.Apparmor = &runtimeapi.SecurityProfile{ProfileType: profileTypes[string(a.Type)]}
		if a.LocalhostProfile != nil {
			out.Apparmor.LocalhostRef = *a.LocalhostProfile
		}
	}
	return out, nil
}

func capName(c corev1.Capability) string {
	return strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_")
}

var profileTypes = map[string]runtimeapi.SecurityProfile_ProfileType{
	"RuntimeDefault": runtimeapi.SecurityProfile_RuntimeDefault,
	"Unconfined":     runtimeapi.SecurityProfile_Unconfined,
	"Localhost":      runtimeapi.SecurityProfile_Localhost,
}

func seccomp(p *corev1.SeccompProfile, dir string) *runtimeapi.SecurityProfile {
	if p == nil {
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	out := &runtimeapi.SecurityProfile{ProfileType: profileTypes[string(p.Type)]}
	if p.LocalhostProfile != nil {
		out.LocalhostRef = filepath.Join(dir, *p.LocalhostProfile)
	}
	return out
}

// verifyNonRoot refuses a container that would run as root although it must not.
func verifyNonRoot(sc *corev1.SecurityContext, name string, pod *corev1.Pod, image *runtimeapi.Image) error {
	if sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podRef(pod), name)
	if sc.RunAsUser != nil {
		if *sc.RunAsUser == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	switch {
	case image == nil:
		return nil
	case image.Uid != nil && image.Uid.Value == 0, image.Uid == nil && image.Username == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.Uid == nil:
		if _, err := strconv.Atoi(image.Username); err != nil {
			return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", image.Username, where)
		}
	}
	return nil
}

func podRef(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

func int64Value(p *int64) *runtimeapi.Int64Value {
	if p == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *p}
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// seccompRoot is where Localhost seccomp profiles lie, as on every Kubernetes node.
const seccompRoot = "/var/lib/kubelet/seccomp"
