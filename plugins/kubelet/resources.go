package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	cpuPeriod    = 100000 // microseconds: the kernel's and Kubernetes' default
	minShares    = 2
	maxShares    = 262144
	minQuota     = 1000
	oomGuarantee = -997
	oomBest      = 1000
)

// cpuShares turns millicores into the kernel's relative weight.
func cpuShares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// cpuQuota turns millicores into microseconds per period; 0 is no limit.
func cpuQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cpuPeriod/1000, minQuota)
}

// containerResources makes the runtime's limits of one container.
func containerResources(pod *corev1.Pod, c *corev1.Container, memoryCapacity int64, v2 bool) *runtimeapi.LinuxContainerResources {
	req, lim := c.Resources.Requests, c.Resources.Limits
	cpu := req.Cpu().MilliValue()
	if _, ok := req[corev1.ResourceCPU]; !ok {
		cpu = lim.Cpu().MilliValue()
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuPeriod:          cpuPeriod,
		CpuQuota:           cpuQuota(lim.Cpu().MilliValue()),
		CpuShares:          cpuShares(cpu),
		MemoryLimitInBytes: lim.Memory().Value(),
		OomScoreAdj:        oomScoreAdj(pod, c, memoryCapacity),
	}
	if v2 {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// oomScoreAdj is the order in which the kernel kills when memory ends: best effort first, then by how much of the node was asked for.
func oomScoreAdj(pod *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000000000 {
		return oomGuarantee
	}
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuarantee
	case corev1.PodQOSBestEffort:
		return oomBest
	}
	if capacity <= 0 {
		return oomBest - 1
	}
	adj := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	return min(max(adj, 1000+oomGuarantee), oomBest-1)
}

// podResources makes the limits of the pod as a whole: the sum of its containers', and only where each of them has a limit.
func podResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	reqs := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	lims := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	cpuLimited, memLimited := true, true
	if !resourcehelper.IsPodLevelLimitsSet(pod) {
		for i := range pod.Spec.Containers {
			l := pod.Spec.Containers[i].Resources.Limits
			cpuLimited = cpuLimited && !l.Cpu().IsZero()
			memLimited = memLimited && !l.Memory().IsZero()
		}
		for i := range pod.Spec.InitContainers {
			l := pod.Spec.InitContainers[i].Resources.Limits
			cpuLimited = cpuLimited && !l.Cpu().IsZero()
			memLimited = memLimited && !l.Memory().IsZero()
		}
	}
	r := &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod, CpuShares: cpuShares(reqs.Cpu().MilliValue())}
	if cpuLimited {
		r.CpuQuota = cpuQuota(lims.Cpu().MilliValue())
	}
	if memLimited {
		r.MemoryLimitInBytes = lims.Memory().Value()
	}
	return r
}
