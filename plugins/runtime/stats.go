package runtime

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
	"keelson.dev/keelson/plugins/runtime/internal/images"
	"keelson.dev/keelson/plugins/runtime/internal/netns"
)

// diskAge is how old a measured size may be: a walk over all files is dear.
const diskAge = 30 * time.Second

type diskUsage struct {
	at            time.Time
	bytes, inodes uint64
}

func value(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }

func cpuAndMemory(st cgroup.Stats) (*cri.CpuUsage, *cri.MemoryUsage, *cri.SwapUsage) {
	now := st.Time.UnixNano()
	mem := &cri.MemoryUsage{Timestamp: now, WorkingSetBytes: value(st.WorkingSet), UsageBytes: value(st.Usage), RssBytes: value(st.RSS),
		PageFaults: value(st.PageFaults), MajorPageFaults: value(st.MajorPageFaults)}
	if st.Limit > st.WorkingSet {
		mem.AvailableBytes = value(st.Limit - st.WorkingSet)
	}
	return &cri.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: value(uint64(st.CPU))}, mem, &cri.SwapUsage{Timestamp: now, SwapUsageBytes: value(st.Swap)}
}

func (s *Server) containerStats(c *container) *cri.ContainerStats {
	rec := c.snapshot()
	out := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{Id: rec.ID, Metadata: c.config.GetMetadata(), Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations()}}
	if st, ok := s.host.Stats(rec.CgroupPath); ok && rec.Phase != phaseExited {
		out.Cpu, out.Memory, out.Swap = cpuAndMemory(st)
	}
	usage := s.layerUsage(c)
	out.WritableLayer = &cri.FilesystemUsage{Timestamp: usage.at.UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: filepath.Join(s.dataDir, "containers")},
		UsedBytes: value(usage.bytes), InodesUsed: value(usage.inodes)}
	return out
}

// layerUsage measures what a container has written.
func (s *Server) layerUsage(c *container) diskUsage {
	c.mu.Lock()
	usage := c.disk
	c.mu.Unlock()
	if time.Since(usage.at) < diskAge {
		return usage
	}
	usage.bytes, usage.inodes = images.DiskUsage(filepath.Join(s.containerDir(c.rec.ID), "upper"))
	usage.at = time.Now()
	c.mu.Lock()
	c.disk = usage
	c.mu.Unlock()
	return usage
}

// ContainerStats tells what one container uses.
func (s *Server) ContainerStats(_ context.Context, req *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	c, err := s.container(req.GetContainerId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &cri.ContainerStatsResponse{Stats: s.containerStats(c)}, nil
}

func (s *Server) listContainerStats(filter *cri.ContainerStatsFilter) []*cri.ContainerStats {
	var out []*cri.ContainerStats
	for _, c := range s.selectContainers(filter.GetId(), filter.GetPodSandboxId(), filter.GetLabelSelector()) {
		if c.snapshot().Phase == phaseRunning {
			out = append(out, s.containerStats(c))
		}
	}
	return out
}

// ListContainerStats tells what all running containers use.
func (s *Server) ListContainerStats(_ context.Context, req *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	return &cri.ListContainerStatsResponse{Stats: s.listContainerStats(req.GetFilter())}, nil
}

// StreamContainerStats tells it in parts.
func (s *Server) StreamContainerStats(req *cri.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[cri.StreamContainerStatsResponse]) error {
	for part := range slices.Chunk(s.listContainerStats(req.GetFilter()), streamPart) {
		if err := stream.Send(&cri.StreamContainerStatsResponse{ContainerStats: part}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) podStats(sb *sandbox) *cri.PodSandboxStats {
	rec := sb.snapshot()
	linux := &cri.LinuxPodSandboxStats{Containers: s.listContainerStats(&cri.ContainerStatsFilter{PodSandboxId: rec.ID})}
	if st, ok := s.host.Stats(rec.CgroupParent); ok {
		linux.Cpu, linux.Memory, _ = cpuAndMemory(st)
		linux.Process = &cri.ProcessUsage{Timestamp: st.Time.UnixNano(), ProcessCount: value(st.Pids)}
	}
	if rec.Networked {
		linux.Network = networkUsage(filepath.Join(s.netnsDir(rec.ID), "net"))
	}
	return &cri.PodSandboxStats{Linux: linux, Attributes: &cri.PodSandboxAttributes{Id: rec.ID, Metadata: sb.config.GetMetadata(),
		Labels: sb.config.GetLabels(), Annotations: sb.config.GetAnnotations()}}
}

// networkUsage reads the counters of a namespace's interfaces.
func networkUsage(path string) *cri.NetworkUsage {
	out := &cri.NetworkUsage{Timestamp: time.Now().UnixNano()}
	var data []byte
	err := netns.Do(path, func() (err error) {
		data, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(f) < 16 {
			continue
		}
		count := func(i int) *cri.UInt64Value {
			n, _ := strconv.ParseUint(f[i], 10, 64) // the kernel writes numbers
			return value(n)
		}
		out.Interfaces = append(out.Interfaces, &cri.NetworkInterfaceUsage{Name: name, RxBytes: count(0), RxErrors: count(2), TxBytes: count(8), TxErrors: count(10)})
	}
	if len(out.Interfaces) > 0 {
		out.DefaultInterface = out.Interfaces[0]
	}
	return out
}

// PodSandboxStats tells what one sandbox uses.
func (s *Server) PodSandboxStats(_ context.Context, req *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, rpcError(err)
	}
	return &cri.PodSandboxStatsResponse{Stats: s.podStats(sb)}, nil
}

func (s *Server) listPodStats(filter *cri.PodSandboxStatsFilter) []*cri.PodSandboxStats {
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	var out []*cri.PodSandboxStats
	for _, item := range s.listSandboxes(&cri.PodSandboxFilter{Id: filter.GetId(), LabelSelector: filter.GetLabelSelector(), State: ready}) {
		if sb, err := s.sandbox(item.GetId()); err == nil {
			out = append(out, s.podStats(sb))
		}
	}
	return out
}

// ListPodSandboxStats tells what all ready sandboxes use.
func (s *Server) ListPodSandboxStats(_ context.Context, req *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	return &cri.ListPodSandboxStatsResponse{Stats: s.listPodStats(req.GetFilter())}, nil
}

// StreamPodSandboxStats tells it in parts.
func (s *Server) StreamPodSandboxStats(req *cri.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[cri.StreamPodSandboxStatsResponse]) error {
	for part := range slices.Chunk(s.listPodStats(req.GetFilter()), streamPart) {
		if err := stream.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: part}); err != nil {
			return err
		}
	}
	return nil
}
