package kubelet

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine is what the node is made of; it does not change while this process runs.
type machine struct {
	cpus      int
	memory    int64
	disk      int64
	kernel    string
	osImage   string
	machineID string
	bootID    string
	uuid      string
}

func readMachine() machine {
	m := machine{cpus: runtime.NumCPU(), memory: memInfo("MemTotal"), osImage: "Linux"}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		m.kernel = unix.ByteSliceToString(uts.Release[:])
	}
	m.machineID = readLine("/etc/machine-id")
	m.bootID = readLine("/proc/sys/kernel/random/boot_id")
	m.uuid = readLine("/sys/class/dmi/id/product_uuid")
	if m.uuid == "" {
		m.uuid = m.machineID
	}
	if f, err := os.Open("/etc/os-release"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if v, ok := strings.CutPrefix(s.Text(), "PRETTY_NAME="); ok {
				m.osImage = strings.Trim(v, `"`)
			}
		}
	}
	var st unix.Statfs_t
	if unix.Statfs("/var/lib", &st) == nil {
		m.disk = int64(st.Blocks) * st.Bsize
	}
	return m
}

func readLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// memInfo reads a line of /proc/meminfo, in bytes.
func memInfo(key string) int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), key+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

func (m machine) capacity(cfg *Config) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.cpus), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
		"hugepages-1Gi":                 *resource.NewQuantity(0, resource.DecimalSI),
		"hugepages-2Mi":                 *resource.NewQuantity(0, resource.DecimalSI),
	}
}

func (m machine) allocatable(cfg *Config) corev1.ResourceList {
	out := m.capacity(cfg)
	for name, q := range cfg.SystemReserved {
		left := out[corev1.ResourceName(name)]
		left.Sub(q)
		if left.Sign() < 0 {
			left = resource.Quantity{}
		}
		out[corev1.ResourceName(name)] = left
	}
	// As upstream: a tenth of the disk is kept back for the images' and logs' sake.
	disk := out[corev1.ResourceEphemeralStorage]
	out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk.Value()*9/10, resource.BinarySI)
	return out
}

// pressure says which of memory, disk and process numbers run short, with a message for each.
func (k *Kubelet) pressure() (memory, disk, pids string) {
	if free := memInfo("MemAvailable"); free > 0 && free < 100<<20 {
		memory = fmt.Sprintf("kubelet has insufficient memory available: %d MiB", free>>20)
	}
	var st unix.Statfs_t
	if unix.Statfs(k.env.DataDir, &st) == nil && st.Blocks > 0 && st.Bavail*100 < st.Blocks*5 {
		disk = "kubelet has disk pressure: less than 5% of the disk is free"
	}
	running, most := pidUse()
	if most > 0 && running*100 > most*95 {
		pids = fmt.Sprintf("kubelet has insufficient PID available: %d of %d in use", running, most)
	}
	return memory, disk, pids
}

func pidUse() (running, most int64) {
	fields := strings.Fields(readLine("/proc/loadavg"))
	if len(fields) >= 4 {
		_, total, _ := strings.Cut(fields[3], "/")
		running, _ = strconv.ParseInt(total, 10, 64)
	}
	most, _ = strconv.ParseInt(readLine("/proc/sys/kernel/pid_max"), 10, 64)
	return running, most
}
