package runtime

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/oci"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// networkStatusTime bounds the question to the network plugin.
const networkStatusTime = 2 * time.Second

// Version says who answers.
func (s *Server) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	version := s.version
	if version == "" {
		version = "unknown"
	}
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: "keelson", RuntimeVersion: version, RuntimeApiVersion: "v1"}, nil
}

// Status says whether containers can run, and pods be joined to the network.
func (s *Server) Status(ctx context.Context, req *cri.StatusRequest) (*cri.StatusResponse, error) {
	ready := &cri.RuntimeCondition{Type: cri.RuntimeReady, Status: true}
	if err := s.checkPrograms(); err != nil {
		ready.Status, ready.Reason, ready.Message = false, "ProgramMissing", err.Error()
	}
	out := &cri.StatusResponse{
		Status:          &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{ready, s.networkCondition(ctx)}},
		RuntimeHandlers: []*cri.RuntimeHandler{{Name: "", Features: &cri.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}}},
		Features:        &cri.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	if req.GetVerbose() {
		s.mu.RLock()
		info := map[string]any{"runtime": s.runtimeBin, "conmon": s.conmonBin, "cgroupV2": s.host.V2, "apparmor": s.apparmor,
			"sandboxes": len(s.sandboxes), "containers": len(s.containers), "dataDir": s.dataDir, "runDir": s.runDir}
		s.mu.RUnlock()
		data, err := json.Marshal(info)
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"config": string(data)}
	}
	return out, nil
}

func (s *Server) networkCondition(ctx context.Context) *cri.RuntimeCondition {
	cond := &cri.RuntimeCondition{Type: cri.NetworkReady}
	if s.network == nil {
		cond.Reason, cond.Message = "NetworkPluginMissing", "this node has no network plugin"
		return cond
	}
	ctx, cancel := context.WithTimeout(ctx, networkStatusTime)
	defer cancel()
	answer, err := s.network.Status(ctx, &networkv1.StatusRequest{})
	switch {
	case err != nil:
		cond.Reason, cond.Message = "NetworkPluginNotReady", "the network plugin does not answer: "+err.Error()
	case !answer.GetReady():
		cond.Reason, cond.Message = "NetworkPluginNotReady", answer.GetMessage()
	default:
		cond.Status = true
	}
	return cond
}

// RuntimeConfig tells the kubelet how cgroups are named.
func (s *Server) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: cri.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes the pod range, which is the network plugin's concern.
func (s *Server) UpdateRuntimeConfig(context.Context, *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, nil
}

func sandboxState(p phase) cri.PodSandboxState {
	if p == phaseReady {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func containerState(p phase) cri.ContainerState {
	switch p {
	case phaseCreated:
		return cri.ContainerState_CONTAINER_CREATED
	case phaseRunning:
		return cri.ContainerState_CONTAINER_RUNNING
	case phaseExited:
		return cri.ContainerState_CONTAINER_EXITED
	}
	return cri.ContainerState_CONTAINER_UNKNOWN
}

func (s *Server) sandboxStatus(sb *sandbox) *cri.PodSandboxStatus {
	rec := sb.snapshot()
	out := &cri.PodSandboxStatus{
		Id: rec.ID, Metadata: sb.config.GetMetadata(), State: sandboxState(rec.Phase), CreatedAt: rec.CreatedAt, Network: &cri.PodSandboxNetworkStatus{},
		Linux:  &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: nsOptions(sb.config)}},
		Labels: sb.config.GetLabels(), Annotations: sb.config.GetAnnotations(), RuntimeHandler: rec.Handler,
	}
	for i, address := range rec.Addresses {
		if i == 0 {
			out.Network.Ip = address
			continue
		}
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &cri.PodIP{Ip: address})
	}
	return out
}

// PodSandboxStatus tells all of one sandbox.
func (s *Server) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, rpcError(err)
	}
	out := &cri.PodSandboxStatusResponse{Status: s.sandboxStatus(sb), ContainersStatuses: s.statusesOf(sb.rec.ID), Timestamp: time.Now().UnixNano()}
	if req.GetVerbose() {
		data, err := json.Marshal(sb.snapshot())
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"info": string(data)}
	}
	return out, nil
}

// ListPodSandbox lists sandboxes, the newest first.
func (s *Server) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: s.listSandboxes(req.GetFilter())}, nil
}

// StreamPodSandboxes lists sandboxes in parts.
func (s *Server) StreamPodSandboxes(req *cri.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[cri.StreamPodSandboxesResponse]) error {
	for part := range slices.Chunk(s.listSandboxes(req.GetFilter()), streamPart) {
		if err := stream.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: part}); err != nil {
			return err
		}
	}
	return nil
}

// streamPart is how many items one message of a streamed list has.
const streamPart = 256

func (s *Server) listSandboxes(filter *cri.PodSandboxFilter) []*cri.PodSandbox {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*cri.PodSandbox
	for id, sb := range s.sandboxes {
		rec := sb.snapshot()
		if !strings.HasPrefix(id, filter.GetId()) || !selects(filter.GetLabelSelector(), sb.config.GetLabels()) {
			continue
		}
		if filter.GetState() != nil && filter.GetState().GetState() != sandboxState(rec.Phase) {
			continue
		}
		out = append(out, &cri.PodSandbox{Id: id, Metadata: sb.config.GetMetadata(), State: sandboxState(rec.Phase), CreatedAt: rec.CreatedAt,
			Labels: sb.config.GetLabels(), Annotations: sb.config.GetAnnotations(), RuntimeHandler: rec.Handler})
	}
	slices.SortFunc(out, func(a, b *cri.PodSandbox) int { return int(min(max(b.GetCreatedAt()-a.GetCreatedAt(), -1), 1)) })
	return out
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// ListContainers lists containers, the newest first.
func (s *Server) ListContainers(_ context.Context, req *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: s.listContainers(req.GetFilter())}, nil
}

// StreamContainers lists containers in parts.
func (s *Server) StreamContainers(req *cri.StreamContainersRequest, stream grpc.ServerStreamingServer[cri.StreamContainersResponse]) error {
	for part := range slices.Chunk(s.listContainers(req.GetFilter()), streamPart) {
		if err := stream.Send(&cri.StreamContainersResponse{Containers: part}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) listContainers(filter *cri.ContainerFilter) []*cri.Container {
	var out []*cri.Container
	for _, c := range s.selectContainers(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector()) {
		rec := c.snapshot()
		if filter.GetState() != nil && filter.GetState().GetState() != containerState(rec.Phase) {
			continue
		}
		out = append(out, &cri.Container{Id: rec.ID, PodSandboxId: rec.SandboxID, Metadata: c.config.GetMetadata(), Image: c.config.GetImage(),
			ImageRef: rec.ImageRef, ImageId: rec.ImageID, State: containerState(rec.Phase), CreatedAt: rec.CreatedAt,
			Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations()})
	}
	return out
}

// selectContainers lists containers, the newest first.
func (s *Server) selectContainers(id, sandboxID string, labels map[string]string) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*container
	for _, c := range s.containers {
		if !c.rec.Hidden && strings.HasPrefix(c.rec.ID, id) && strings.HasPrefix(c.rec.SandboxID, sandboxID) && selects(labels, c.config.GetLabels()) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *container) int { return int(min(max(b.rec.CreatedAt-a.rec.CreatedAt, -1), 1)) })
	return out
}

func (s *Server) statusesOf(sandboxID string) []*cri.ContainerStatus {
	var out []*cri.ContainerStatus
	for _, c := range s.selectContainers("", sandboxID, nil) {
		out = append(out, containerStatus(c))
	}
	return out
}

func containerStatus(c *container) *cri.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	rec := c.rec
	out := &cri.ContainerStatus{
		Id: rec.ID, Metadata: c.config.GetMetadata(), State: containerState(rec.Phase), CreatedAt: rec.CreatedAt, StartedAt: rec.StartedAt,
		FinishedAt: rec.FinishedAt, ExitCode: rec.ExitCode, Image: c.config.GetImage(), ImageRef: rec.ImageRef, ImageId: rec.ImageID,
		Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(), Mounts: c.config.GetMounts(), LogPath: rec.LogPath, User: c.user,
	}
	if rec.Phase == phaseExited {
		out.Reason, out.Message = rec.Reason, rec.Message
	}
	if c.resources != nil {
		out.Resources = &cri.ContainerResources{Linux: proto.CloneOf(c.resources)}
	}
	if sig, err := oci.ParseSignal(rec.StopSignal); err == nil {
		out.StopSignal = criSignal(int(sig))
	}
	return out
}

// ContainerStatus tells all of one container.
func (s *Server) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	out := &cri.ContainerStatusResponse{Status: containerStatus(c)}
	if req.GetVerbose() {
		rec := c.snapshot()
		data, err := json.Marshal(map[string]any{"sandboxID": rec.SandboxID, "pid": rec.Pid, "conmonPid": rec.ConmonPid, "cgroup": rec.CgroupPath,
			"runtime": rec.Runtime, "layers": rec.Layers, "stopSignal": rec.StopSignal})
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"info": string(data)}
	}
	return out, nil
}
