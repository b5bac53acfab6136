package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources turns CRI's resources into the OCI form.
func Resources(r *cri.LinuxContainerResources, v2 bool) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := uint64(max(r.GetCpuShares(), 0)); v > 0 {
		cpu.Shares = &v
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := uint64(max(r.GetCpuPeriod(), 0)); v > 0 {
		cpu.Period = &v
	}
	out.CPU = cpu
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory = &specs.LinuxMemory{Limit: &v}
		if swap := r.GetMemorySwapLimitInBytes(); swap != 0 {
			out.Memory.Swap = &swap
		}
	}
	for _, huge := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: huge.GetPageSize(), Limit: huge.GetLimit()})
	}
	if v2 {
		out.Unified = r.GetUnified()
	}
	return out
}
