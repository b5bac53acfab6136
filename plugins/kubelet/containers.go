package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// startError is why a container could not be started, in the words of a container status.
type startError struct{ reason, message string }

func (e *startError) Error() string { return e.reason + ": " + e.message }

type startRequest struct {
	pod     *corev1.Pod
	action  startAction
	image   *readyImage
	sandbox *sandboxInfo
	volumes map[string]mountedVolume
	target  *containerInfo // whose processes an ephemeral container sees
}

// startContainer creates and starts a container and runs its postStart hook; started is called between the two.
func (k *Kubelet) startContainer(ctx context.Context, r startRequest, started func()) (string, error) {
	pod, c := r.pod, r.action.Container
	fail := func(reason, format string, args ...any) error {
		message := fmt.Sprintf(format, args...)
		if ctx.Err() == nil {
			k.event(pod, c.Name, corev1.EventTypeWarning, "Failed", "Error: %s", message)
		}
		return &startError{reason, message}
	}
	conf, err := k.containerConfig(ctx, r)
	if err != nil {
		return "", fail("CreateContainerConfigError", "%v", err)
	}
	sandbox, err := k.sandboxConfig(pod, r.sandbox.Attempt)
	if err != nil {
		return "", fail("CreateContainerConfigError", "%v", err)
	}
	callCtx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	resp, err := k.cri.rt.CreateContainer(callCtx, &runtimeapi.CreateContainerRequest{PodSandboxId: r.sandbox.ID, Config: conf, SandboxConfig: sandbox})
	if err != nil {
		return "", fail("CreateContainerError", "%s", criMessage(err))
	}
	id := resp.ContainerId
	k.event(pod, c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if _, err := k.cri.rt.StartContainer(callCtx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return id, fail("RunContainerError", "%s", criMessage(err))
	}
	k.event(pod, c.Name, corev1.EventTypeNormal, "Started", "Container started")
	k.linkLog(pod, c.Name, id, filepath.Join(sandbox.LogDirectory, conf.LogPath))
	started()
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		ip := ""
		if len(r.sandbox.IPs) > 0 {
			ip = r.sandbox.IPs[0]
		} else if len(k.hostIPs) > 0 {
			ip = k.hostIPs[0]
		}
		err := k.runHook(ctx, pod, c, id, ip, c.Lifecycle.PostStart)
		if err != nil && k.ctx.Err() != nil {
			return id, &startError{"PostStartHookError", fmt.Sprintf("PostStartHook was cut off: %v", err)} // by our own end: no fault of the container
		}
		if err != nil {
			k.event(pod, c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			info := &containerInfo{ContainerStatus: &runtimeapi.ContainerStatus{Id: id, Metadata: conf.Metadata}}
			grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
			if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
				grace = *s
			}
			kctx := context.WithoutCancel(ctx)
			_ = k.stopContainer(kctx, pod, ip, info, "FailedPostStartHook", time.Duration(grace)*time.Second)
			return id, &startError{"PostStartHookError", fmt.Sprintf("PostStartHook failed: %v", err)}
		}
	}
	return id, nil
}

func (k *Kubelet) linkLog(pod *corev1.Pod, container, id, path string) {
	link := k.logLink(pod.Name, pod.Namespace, container, id)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err == nil {
		_ = os.Symlink(path, link) // for log collectors; their loss is no fault of the container
	}
}

// containerConfig describes a container to the runtime.
func (k *Kubelet) containerConfig(ctx context.Context, r startRequest) (*runtimeapi.ContainerConfig, error) {
	pod, c, attempt := r.pod, r.action.Container, r.action.Attempt
	ips := r.sandbox.IPs
	if pod.Spec.HostNetwork {
		ips = k.hostIPs
	}
	env, err := makeEnv(ctx, pod, c, envSource{Objects: k.objects, Services: k.servicesFor(ctx), PodIPs: ips, HostIPs: k.hostIPs, NodeName: k.env.Node.Name, Allocatable: k.allocatable()})
	if err != nil {
		return nil, err
	}
	security, err := containerSecurity(pod, c, r.image.Info, seccompRoot)
	if err != nil {
		return nil, err
	}
	if r.target != nil {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = r.target.Id
	}
	mounts, err := k.mounts(r, env, ips)
	if err != nil {
		return nil, err
	}
	logDir := filepath.Join(k.logDir(pod), c.Name)
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return nil, fmt.Errorf("create log folder: %w", err)
	}
	conf := &runtimeapi.ContainerConfig{
		Metadata:   &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:      &runtimeapi.ImageSpec{Image: r.image.Ref, UserSpecifiedImage: c.Image},
		WorkingDir: c.WorkingDir,
		Labels:     podLabels(pod),
		Annotations: map[string]string{annHash: containerHash(c), annRestartCount: strconv.FormatUint(uint64(attempt), 10),
			annTerminationPath: c.TerminationMessagePath, annTerminationPolicy: string(c.TerminationMessagePolicy)},
		LogPath: filepath.Join(c.Name, logName(attempt)),
		Mounts:  mounts,
		Stdin:   c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &runtimeapi.LinuxContainerConfig{Resources: containerResources(pod, c, k.machine.memory, k.cg.v2), SecurityContext: security},
	}
	conf.Labels[labelContainerName] = c.Name
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		conf.Annotations[annGrace] = strconv.FormatInt(*s, 10)
	}
	for _, m := range mounts {
		if m.ContainerPath == c.TerminationMessagePath {
			conf.Annotations[annTerminationHost] = m.HostPath
		}
	}
	lookup := lookupIn(env)
	for _, s := range c.Command {
		conf.Command = append(conf.Command, expand(s, lookup))
	}
	for _, s := range c.Args {
		conf.Args = append(conf.Args, expand(s, lookup))
	}
	for _, e := range env {
		conf.Envs = append(conf.Envs, &runtimeapi.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		conf.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value[string(*c.Lifecycle.StopSignal)])
	}
	return conf, nil
}

// servicesFor waits until services are known, for a container's environment cannot be changed afterwards.
func (k *Kubelet) servicesFor(ctx context.Context) []*corev1.Service {
	for !k.services.HasSynced() {
		if !sleep(ctx, 10*time.Millisecond) {
			return nil
		}
	}
	return k.allServices()
}

// mounts lists what a container mounts: volumes, /etc/hosts, the file of its last words.
func (k *Kubelet) mounts(r startRequest, env []envVar, ips []string) ([]*runtimeapi.Mount, error) {
	pod, c := r.pod, r.action.Container
	var out []*runtimeapi.Mount
	taken := map[string]bool{}
	for i, m := range c.VolumeMounts {
		vol, ok := r.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("volume %q of container %q is not mounted", m.Name, c.Name)
		}
		host, sub := vol.Path, m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, lookupIn(env))
			if strings.Contains(sub, "$(") {
				return nil, fmt.Errorf("subPathExpr %q of volume %q refers to a variable that is not set", m.SubPathExpr, m.Name)
			}
		}
		if sub != "" {
			var err error
			if host, err = k.volumes.bindSubPath(pod.UID, m.Name, c.Name, i, vol.Path, sub); err != nil {
				return nil, err
			}
		}
		path := m.MountPath
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		taken[filepath.Clean(path)] = true
		out = append(out, &runtimeapi.Mount{ContainerPath: path, HostPath: host, Readonly: m.ReadOnly || vol.ReadOnly, Propagation: propagation(m.MountPropagation),
			RecursiveReadOnly: m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled})
	}
	if !taken["/etc/hosts"] {
		path, err := k.writeHosts(pod, ips)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if p := c.TerminationMessagePath; p != "" && !taken[filepath.Clean(p)] {
		dir := filepath.Join(k.volumes.podDir(pod.UID), "containers", c.Name)
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("create container folder: %w", err)
		}
		file := filepath.Join(dir, strconv.FormatUint(uint64(r.action.Attempt), 10)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, fmt.Errorf("create termination log: %w", err)
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, fmt.Errorf("create termination log: %w", err)
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: p, HostPath: file})
	}
	return out, nil
}

func propagation(p *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if p == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *p {
	case corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

func (k *Kubelet) writeHosts(pod *corev1.Pod, ips []string) (string, error) {
	var node []byte
	if pod.Spec.HostNetwork {
		node, _ = os.ReadFile("/etc/hosts")
	}
	hostname, fqdn := podHostname(pod, k.env.Cluster.Domain, k.env.Node.Name)
	path := filepath.Join(k.volumes.podDir(pod.UID), "etc-hosts")
	content := hostsFile(pod, ips, hostname, fqdn, node)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return path, nil // containers of the pod may be starting side by side
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", fmt.Errorf("write hosts file: %w", err)
	}
	return path, os.Chmod(path, 0o644)
}

// minStop is what a container gets between TERM and KILL even if its preStop hook took all the grace there was.
const minStop = 2 * time.Second

// stopContainer runs the preStop hook and stops a container within the grace.
func (k *Kubelet) stopContainer(ctx context.Context, pod *corev1.Pod, ip string, info *containerInfo, message string, grace time.Duration) error {
	name := info.Metadata.GetName()
	if message == "" {
		message = "Stopping container " + name
	}
	k.event(pod, name, corev1.EventTypeNormal, "Killing", "%s", message)
	c, _ := findContainer(pod, name)
	begun := time.Now()
	if c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && grace > time.Second {
		k.runPreStop(ctx, pod, c, info.Id, ip, grace)
		grace = max(grace-time.Since(begun), minStop)
	}
	seconds := int64((grace + time.Second - 1) / time.Second)
	sctx, cancel := context.WithTimeout(ctx, grace+criTimeout)
	defer cancel()
	_, err := k.cri.rt.StopContainer(sctx, &runtimeapi.StopContainerRequest{ContainerId: info.Id, Timeout: seconds})
	if err != nil && !crierrors.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", info.Id, err)
	}
	return nil
}

// runPreStop runs the hook, once: one that an earlier kubelet saw to its end is not run
// again, and a sleep goes on where it was. One that was cut off is run again, as hooks run
// at least once.
func (k *Kubelet) runPreStop(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, ip string, grace time.Duration) {
	mark, hook := k.preStop(pod.UID, id), c.Lifecycle.PreStop
	begun, done := mark.read()
	if done {
		return
	}
	if hook.Sleep != nil && !begun.IsZero() {
		passed := int64(time.Since(begun) / time.Second)
		hook = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: max(hook.Sleep.Seconds-passed, 0)}}
	}
	err := mark.begin()
	hctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if err := k.runHook(hctx, pod, c, id, ip, hook); err != nil && ctx.Err() == nil {
		k.event(pod, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
	if ctx.Err() == nil {
		err = errors.Join(err, mark.end())
	}
	if err != nil {
		k.log.Warn("The next kubelet would run a preStop hook again", "pod", klogRef(pod), "container", c.Name, "err", err)
	}
}

// maxMessage and maxMessageLog bound a container's last words: 4096 bytes of its file, or 2048 bytes and 80 lines of its log.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// terminationMessage reads a dead container's last words.
func terminationMessage(s *runtimeapi.ContainerStatus) string {
	message := s.Message
	if path := s.Annotations[annTerminationHost]; path != "" {
		if data, err := readTail(path, maxMessage); err == nil && len(data) > 0 {
			return string(data)
		} else if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Sprintf("Error on reading termination log %s: %v", path, err)
		}
	}
	if s.Annotations[annTerminationPolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) && s.ExitCode != 0 && s.LogPath != "" {
		if lines, err := lastLogLines(s.LogPath, maxMessageLines, maxMessageLog); err == nil && lines != "" {
			return lines
		}
	}
	return message
}

func readTail(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	offset := max(info.Size()-limit, 0)
	buf := make([]byte, info.Size()-offset)
	n, err := f.ReadAt(buf, offset)
	if n > 0 {
		err = nil
	}
	return buf[:n], err
}
