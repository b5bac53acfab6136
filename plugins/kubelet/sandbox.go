package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// criMessage is an error of the runtime without gRPC's wrapping.
func criMessage(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// sandboxConfig describes a pod to the runtime.
func (k *Kubelet) sandboxConfig(pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	host, err := readResolvConf(k.cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	hostname, _ := podHostname(pod, k.env.Cluster.Domain, k.env.Node.Name)
	labels := podLabels(pod)
	for key, v := range pod.Labels {
		if _, ours := labels[key]; !ours {
			labels[key] = v
		}
	}
	conf := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Hostname:     hostname,
		LogDirectory: k.logDir(pod),
		DnsConfig:    podDNS(pod, k.clusterDNS(), k.env.Cluster.Domain, host),
		Labels:       labels,
		Annotations:  pod.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    k.cg.podPath(string(pod.UID)),
			SecurityContext: sandboxSecurity(pod),
			Sysctls:         map[string]string{},
			Resources:       podResources(pod),
		},
	}
	if pod.Spec.HostNetwork {
		conf.Hostname = ""
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			conf.Linux.Sysctls[s.Name] = s.Value
		}
	}
	if !pod.Spec.HostNetwork {
		conf.PortMappings = portMappings(pod)
	}
	return conf, nil
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			proto := runtimeapi.Protocol_TCP
			switch p.Protocol {
			case corev1.ProtocolUDP:
				proto = runtimeapi.Protocol_UDP
			case corev1.ProtocolSCTP:
				proto = runtimeapi.Protocol_SCTP
			}
			out = append(out, &runtimeapi.PortMapping{Protocol: proto, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
		}
	}
	for i := range pod.Spec.InitContainers {
		if isSidecar(&pod.Spec.InitContainers[i]) {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// createSandbox makes a pod's cgroup, log folder and sandbox.
func (k *Kubelet) createSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) error {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	conf, err := k.sandboxConfig(pod, attempt)
	if err != nil {
		return err
	}
	if err := markLogs(k.env.DataDir, string(pod.UID)); err != nil {
		return err
	}
	if err := os.MkdirAll(conf.LogDirectory, 0o755); err != nil {
		return fmt.Errorf("create log folder: %w", err)
	}
	if err := k.cg.create(string(pod.UID), conf.Linux.Resources, k.cfg.PodPidsLimit); err != nil {
		return err
	}
	handler, err := k.runtimeHandler(ctx, pod)
	if err != nil {
		return err
	}
	if _, err := k.cri.rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: conf, RuntimeHandler: handler}); err != nil {
		return errors.New(criMessage(err))
	}
	k.metrics.sandboxSeconds.Observe(time.Since(begun).Seconds())
	return nil
}

func (k *Kubelet) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, err := k.client.NodeV1().RuntimeClasses().Get(ctx, *name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("get RuntimeClass %q: %w", *name, err)
	}
	return class.Handler, nil
}

// stopSandboxes stops sandboxes and with them their networks.
func (k *Kubelet) stopSandboxes(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	var errs []error
	for _, id := range ids {
		if _, err := k.cri.rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !crierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("stop sandbox %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Kubelet) removeSandbox(ctx context.Context, id string) {
	if err := k.stopSandboxes(ctx, []string{id}); err == nil {
		_, _ = k.cri.rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	}
}

// removeContainer removes a dead container and its logs.
func (k *Kubelet) removeContainer(ctx context.Context, c *containerInfo) {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	if _, err := k.cri.rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Id}); err != nil && !crierrors.IsNotFound(err) {
		k.log.Debug("Dead container was not removed", "container", c.Id, "err", err)
		return
	}
	if c.LogPath != "" {
		matches, _ := filepath.Glob(c.LogPath + "*")
		for _, m := range matches {
			_ = os.Remove(m)
		}
	}
	_ = os.Remove(k.logLink(c.Labels[labelPodName], c.Labels[labelPodNamespace], c.Metadata.GetName(), c.Id))
	if p := c.Annotations[annTerminationHost]; p != "" {
		_ = os.Remove(p)
	}
}

// removeState removes all containers and sandboxes of a pod.
func (k *Kubelet) removeState(ctx context.Context, s *podState) error {
	for _, list := range s.Containers {
		for _, c := range list {
			k.removeContainer(ctx, c)
		}
	}
	var errs []error
	for _, sb := range s.Sandboxes {
		if _, err := k.cri.rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sb.ID}); err != nil && !crierrors.IsNotFound(err) {
			errs = append(errs, err)
			continue
		}
		if _, err := k.cri.rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sb.ID}); err != nil && !crierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (k *Kubelet) logDir(pod *corev1.Pod) string {
	return filepath.Join(k.cfg.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

func (k *Kubelet) logLink(pod, ns, container, id string) string {
	return filepath.Join(k.cfg.ContainerLogLinks, fmt.Sprintf("%s_%s_%s-%s.log", pod, ns, container, id))
}

func (k *Kubelet) removeLogs(pod *corev1.Pod) {
	err := removeLogDir(k.logDir(pod), k.cfg.ContainerLogLinks)
	if err == nil {
		err = unmarkLogs(k.env.DataDir, string(pod.UID))
	}
	if err != nil {
		k.log.Warn("Pod logs stay", "pod", klogRef(pod), "err", err)
	}
}

func logName(attempt uint32) string { return strconv.FormatUint(uint64(attempt), 10) + ".log" }
