package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// inventory is what a cluster may leave on a host, outside its folders and its
// network namespace.
type inventory map[string]bool

// takeInventory lists mounts, cgroups, log folders and processes that have to do
// with Keelson or with containers.
func takeInventory(t *testing.T) inventory {
	t.Helper()
	list := inventory{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			list["mount "+fields[4]] = true
		}
	}
	for _, root := range []string{"/sys/fs/cgroup", "/var/log/pods", "/var/log/containers"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.IsDir() || !strings.HasPrefix(path, "/sys")) && strings.Contains(path, "/") && isOurs(path) {
				list["file "+path] = true
			}
			return nil
		})
	}
	for _, p := range processes(t) {
		if strings.Contains(p.command, "conmon") || strings.Contains(p.command, "keelson-e2e") {
			list[fmt.Sprintf("process %d %s", p.pid, p.command)] = true
		}
	}
	return list
}

func isOurs(path string) bool {
	return strings.Contains(path, "keelson") || strings.HasPrefix(path, "/var/log/")
}

// beyond is what is in this inventory and not in the earlier one.
func (i inventory) beyond(earlier inventory) []string {
	var more []string
	for item := range i {
		if !earlier[item] {
			more = append(more, item)
		}
	}
	slices.Sort(more)
	return more
}

type process struct {
	pid     int
	command string
}

func processes(t *testing.T) []process {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var list []process
	for _, dir := range dirs {
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if err == nil && len(command) > 0 && pid != os.Getpid() {
			list = append(list, process{pid, string(bytes.ReplaceAll(command, []byte{0}, []byte{' '}))})
		}
	}
	return list
}

// processesWith lists the processes whose command line has a text.
func processesWith(t *testing.T, text string) []string {
	t.Helper()
	var list []string
	for _, p := range processes(t) {
		if strings.Contains(p.command, text) {
			list = append(list, p.command)
		}
	}
	return list
}

// containerPID finds the first process of a pod's first container by its cgroup.
func containerPID(t *testing.T, pod *corev1.Pod) int {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	for _, p := range processes(t) {
		cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
		if err == nil && id != "" && strings.Contains(string(cgroup), id) && !strings.Contains(p.command, "conmon") {
			return p.pid
		}
	}
	t.Fatalf("pod %s: no process of container %q", pod.Name, id)
	return 0
}

// serverPID reads the kernel's process number.
func serverPID(t *testing.T, run string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(run, "server.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// alive says whether a process runs; one that ended and was not reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if state, ok := strings.CutPrefix(scan.Text(), "State:"); ok {
			return !strings.HasPrefix(strings.TrimSpace(state), "Z")
		}
	}
	return false
}
