package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// Labels and annotations that say what a sandbox or container is; the same as upstream's, so that crictl and log collectors know them.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annHash              = "io.kubernetes.container.hash"
	annRestartCount      = "io.kubernetes.container.restartCount"
	annTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	annTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	annTerminationHost   = "keelson.dev/termination-log"
	annPorts             = "io.kubernetes.container.ports"
	annGrace             = "io.kubernetes.pod.terminationGracePeriod"
)

// criTimeout bounds calls that do not wait for a container: listing, creating, starting.
const criTimeout = 2 * time.Minute

type criClient struct {
	rt  runtimeapi.RuntimeServiceClient
	img runtimeapi.ImageServiceClient
}

func newCRIClient(conn grpc.ClientConnInterface) *criClient {
	return &criClient{rt: runtimeapi.NewRuntimeServiceClient(conn), img: runtimeapi.NewImageServiceClient(conn)}
}

// sandboxInfo is one sandbox of a pod as the runtime has it.
type sandboxInfo struct {
	ID      string
	Attempt uint32
	Ready   bool
	Created int64
	IPs     []string
}

// containerInfo is one container of a pod as the runtime has it.
type containerInfo struct {
	*runtimeapi.ContainerStatus
	SandboxID string
}

func (c *containerInfo) running() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}

func (c *containerInfo) exited() bool {
	return c != nil && c.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

func (c *containerInfo) restartCount() int32 {
	if n, err := strconv.Atoi(c.Annotations[annRestartCount]); err == nil {
		return int32(n)
	}
	return int32(c.Metadata.GetAttempt())
}

// podState is what the runtime has of one pod: sandboxes and, by name, containers; each newest first.
type podState struct {
	Sandboxes  []*sandboxInfo
	Containers map[string][]*containerInfo
}

func (s *podState) newest(name string) *containerInfo {
	if s == nil || len(s.Containers[name]) == 0 {
		return nil
	}
	return s.Containers[name][0]
}

func (s *podState) readySandbox() *sandboxInfo {
	if s == nil {
		return nil
	}
	for _, sb := range s.Sandboxes {
		if sb.Ready {
			return sb
		}
	}
	return nil
}

func (s *podState) running() []*containerInfo {
	var out []*containerInfo
	if s == nil {
		return nil
	}
	for _, list := range s.Containers {
		for _, c := range list {
			if c.running() || c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
				out = append(out, c)
			}
		}
	}
	return out
}

// readPodState asks the runtime for all it has of a pod. Facts that cannot change any more are taken from old.
func (c *criClient) readPodState(ctx context.Context, uid types.UID, old *podState) (*podState, error) {
	ctx, cancel := context.WithTimeout(ctx, criTimeout)
	defer cancel()
	selector := map[string]string{labelPodUID: string(uid)}
	var sandboxes []*runtimeapi.PodSandbox
	var containers []*runtimeapi.Container
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		resp, err := c.rt.ListPodSandbox(gctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
		sandboxes = resp.GetItems()
		return err
	})
	g.Go(func() error {
		resp, err := c.rt.ListContainers(gctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
		containers = resp.GetContainers()
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("list sandboxes and containers: %w", err)
	}
	state := &podState{Containers: map[string][]*containerInfo{}}
	for _, sb := range sandboxes {
		info, err := c.sandboxInfo(ctx, sb, old)
		if err != nil {
			return nil, err
		}
		state.Sandboxes = append(state.Sandboxes, info)
	}
	slices.SortFunc(state.Sandboxes, func(a, b *sandboxInfo) int { return cmp.Compare(b.Created, a.Created) })
	for _, ct := range containers {
		status, err := c.containerStatus(ctx, ct, old)
		if err != nil {
			return nil, err
		}
		if status != nil {
			name := ct.GetMetadata().GetName()
			state.Containers[name] = append(state.Containers[name], &containerInfo{ContainerStatus: status, SandboxID: ct.PodSandboxId})
		}
	}
	for _, list := range state.Containers {
		slices.SortFunc(list, func(a, b *containerInfo) int {
			return cmp.Or(cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(b.Metadata.GetAttempt(), a.Metadata.GetAttempt()))
		})
	}
	return state, nil
}

func (c *criClient) sandboxInfo(ctx context.Context, sb *runtimeapi.PodSandbox, old *podState) (*sandboxInfo, error) {
	info := &sandboxInfo{ID: sb.Id, Attempt: sb.GetMetadata().GetAttempt(), Created: sb.CreatedAt,
		Ready: sb.State == runtimeapi.PodSandboxState_SANDBOX_READY}
	if old != nil {
		for _, o := range old.Sandboxes {
			if o.ID == sb.Id && len(o.IPs) > 0 {
				info.IPs = o.IPs
				return info, nil
			}
		}
	}
	if !info.Ready {
		return info, nil
	}
	resp, err := c.rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sb.Id})
	if crierrors.IsNotFound(err) {
		info.Ready = false
		return info, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of sandbox %s: %w", sb.Id, err)
	}
	info.Ready = resp.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
	if ip := resp.GetStatus().GetNetwork().GetIp(); ip != "" {
		info.IPs = append(info.IPs, ip)
		for _, a := range resp.GetStatus().GetNetwork().GetAdditionalIps() {
			info.IPs = append(info.IPs, a.GetIp())
		}
	}
	return info, nil
}

func (c *criClient) containerStatus(ctx context.Context, ct *runtimeapi.Container, old *podState) (*runtimeapi.ContainerStatus, error) {
	if old != nil && ct.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		for _, o := range old.Containers[ct.GetMetadata().GetName()] {
			if o.Id == ct.Id && o.exited() {
				return o.ContainerStatus, nil
			}
		}
	}
	resp, err := c.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ct.Id})
	if crierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("status of container %s: %w", ct.Id, err)
	}
	status := resp.GetStatus()
	if status.GetMetadata() == nil {
		status.Metadata = ct.GetMetadata()
	}
	if status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		status.Message = terminationMessage(status)
	}
	return status, nil
}

func podLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{labelPodName: pod.Name, labelPodNamespace: pod.Namespace, labelPodUID: string(pod.UID)}
}
