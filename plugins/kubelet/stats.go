package kubelet

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// summary gathers the node's and the pods' use of resources, from the runtime and the kernel.
func (k *Kubelet) summary(ctx context.Context) (*statsapi.Summary, error) {
	resp, err := k.cri.rt.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("list container stats: %w", err)
	}
	byPod := map[string][]*runtimeapi.ContainerStats{}
	for _, s := range resp.Stats {
		uid := s.GetAttributes().GetLabels()[labelPodUID]
		byPod[uid] = append(byPod[uid], s)
	}
	out := &statsapi.Summary{Node: k.nodeStats(), Pods: []statsapi.PodStats{}}
	for _, v := range k.views() {
		if len(v.State.running()) == 0 {
			continue
		}
		pod := statsapi.PodStats{PodRef: statsapi.PodReference{Name: v.Pod.Name, Namespace: v.Pod.Namespace, UID: string(v.Pod.UID)}}
		if t := v.Pod.Status.StartTime; t != nil {
			pod.StartTime = *t
		}
		var cpu, memory, rss uint64
		var nano uint64
		for _, s := range byPod[string(v.Pod.UID)] {
			info := v.State.newest(s.GetAttributes().GetMetadata().GetName())
			if info == nil || info.Id != s.GetAttributes().GetId() || !info.running() {
				continue
			}
			c := containerStats(s, info)
			pod.Containers = append(pod.Containers, c)
			cpu += value(c.CPU.UsageCoreNanoSeconds)
			nano += value(c.CPU.UsageNanoCores)
			memory += value(c.Memory.WorkingSetBytes)
			rss += value(c.Memory.RSSBytes)
		}
		now := metav1.Now()
		pod.CPU = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu, UsageNanoCores: &nano}
		pod.Memory = &statsapi.MemoryStats{Time: now, WorkingSetBytes: &memory, RSSBytes: &rss}
		out.Pods = append(out.Pods, pod)
	}
	return out, nil
}

func value(p *uint64) uint64 {
	if p == nil {
		return 0
	}
	return *p
}

func uintPtr(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func containerStats(s *runtimeapi.ContainerStats, info *containerInfo) statsapi.ContainerStats {
	c := statsapi.ContainerStats{Name: s.GetAttributes().GetMetadata().GetName(), StartTime: metav1.NewTime(time.Unix(0, info.StartedAt)),
		CPU: &statsapi.CPUStats{Time: metav1.NewTime(time.Unix(0, s.GetCpu().GetTimestamp()))}, Memory: &statsapi.MemoryStats{Time: metav1.NewTime(time.Unix(0, s.GetMemory().GetTimestamp()))}}
	c.CPU.UsageCoreNanoSeconds = uintPtr(s.GetCpu().GetUsageCoreNanoSeconds())
	c.CPU.UsageNanoCores = uintPtr(s.GetCpu().GetUsageNanoCores())
	m := s.GetMemory()
	c.Memory.WorkingSetBytes, c.Memory.UsageBytes, c.Memory.RSSBytes = uintPtr(m.GetWorkingSetBytes()), uintPtr(m.GetUsageBytes()), uintPtr(m.GetRssBytes())
	c.Memory.AvailableBytes, c.Memory.PageFaults, c.Memory.MajorPageFaults = uintPtr(m.GetAvailableBytes()), uintPtr(m.GetPageFaults()), uintPtr(m.GetMajorPageFaults())
	if f := s.GetWritableLayer(); f != nil {
		c.Rootfs = &statsapi.FsStats{UsedBytes: uintPtr(f.GetUsedBytes()), InodesUsed: uintPtr(f.GetInodesUsed())}
	}
	if info.LogPath != "" {
		var used uint64
		files, _ := filepath.Glob(info.LogPath + "*")
		for _, f := range files {
			if st, err := os.Stat(f); err == nil {
				used += uint64(st.Size())
			}
		}
		c.Logs = &statsapi.FsStats{UsedBytes: &used}
	}
	return c
}

// nodeStats reads the node's own use from /proc.
func (k *Kubelet) nodeStats() statsapi.NodeStats {
	now := metav1.Now()
	free := uint64(memInfo("MemAvailable"))
	used := uint64(memInfo("MemTotal")) - uint64(memInfo("MemFree"))
	working := uint64(memInfo("MemTotal")) - free
	cpu := cpuNanos()
	n := statsapi.NodeStats{NodeName: k.env.Node.Name,
		CPU:    &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu},
		Memory: &statsapi.MemoryStats{Time: now, AvailableBytes: &free, UsageBytes: &used, WorkingSetBytes: &working}}
	var st unix.Statfs_t
	if unix.Statfs(k.env.DataDir, &st) == nil {
		size := uint64(st.Bsize)
		capacity, available, usedDisk := st.Blocks*size, st.Bavail*size, (st.Blocks-st.Bfree)*size
		inodes, inodesFree := st.Files, st.Ffree
		n.Fs = &statsapi.FsStats{Time: now, CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &usedDisk, Inodes: &inodes, InodesFree: &inodesFree}
	}
	return n
}

// cpuNanos is the time that all CPUs have worked since boot.
func cpuNanos() uint64 {
	fields := strings.Fields(strings.SplitN(readLine("/proc/stat"), "\n", 2)[0])
	var ticks uint64
	for i, f := range fields {
		if i == 0 || i == 4 || i == 5 || i > 8 { // name, idle, iowait, guests (part of user)
			continue
		}
		n, _ := strconv.ParseUint(f, 10, 64)
		ticks += n
	}
	return ticks * uint64(time.Second) / 100
}

func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {
	s, err := k.summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, s)
}

// serveResourceMetrics is what metrics-server scrapes.
func (k *Kubelet) serveResourceMetrics(w http.ResponseWriter, r *http.Request) {
	s, err := k.summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	var b strings.Builder
	stamp := func(t metav1.Time) int64 { return t.UnixMilli() }
	seconds := func(p *uint64) float64 { return float64(value(p)) / 1e9 }
	fmt.Fprintf(&b, "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total %g %d\n", seconds(s.Node.CPU.UsageCoreNanoSeconds), stamp(s.Node.CPU.Time))
	fmt.Fprintf(&b, "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes %d %d\n", value(s.Node.Memory.WorkingSetBytes), stamp(s.Node.Memory.Time))
	each := func(name, kind string, line func(c *statsapi.ContainerStats) string) {
		fmt.Fprintf(&b, "# TYPE %s %s\n", name, kind)
		for i := range s.Pods {
			p := &s.Pods[i]
			for j := range p.Containers {
				fmt.Fprintf(&b, "%s{container=%q,namespace=%q,pod=%q} %s\n", name, p.Containers[j].Name, p.PodRef.Namespace, p.PodRef.Name, line(&p.Containers[j]))
			}
		}
	}
	each("container_cpu_usage_seconds_total", "counter", func(c *statsapi.ContainerStats) string {
		return fmt.Sprintf("%g %d", seconds(c.CPU.UsageCoreNanoSeconds), stamp(c.CPU.Time))
	})
	each("container_memory_working_set_bytes", "gauge", func(c *statsapi.ContainerStats) string {
		return fmt.Sprintf("%d %d", value(c.Memory.WorkingSetBytes), stamp(c.Memory.Time))
	})
	each("container_start_time_seconds", "gauge", func(c *statsapi.ContainerStats) string {
		return fmt.Sprintf("%g", float64(c.StartTime.UnixMilli())/1000)
	})
	fmt.Fprintf(&b, "# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n")
	_, _ = w.Write([]byte(b.String()))
}
