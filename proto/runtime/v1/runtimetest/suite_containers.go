package runtimetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func testExitCodes(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	for _, test := range []struct {
		code   string
		want   int32
		reason string
	}{{"0", 0, "Completed"}, {"1", 1, "Error"}, {"42", 42, "Error"}, {"255", 255, "Error"}} {
		id := c.Start(sb, nil, "exit", test.code)
		if st := c.WaitExit(id); st.GetExitCode() != test.want || st.GetReason() != test.reason {
			t.Errorf("exit %s: got %d %s", test.code, st.GetExitCode(), st.GetReason())
		}
	}
	id := c.Create(sb, func(p *cri.ContainerConfig) { p.Command = []string{"/bin/workload"} }, "sleep")
	if _, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Errorf("stop of a container that was not started: %v", err)
	}
	if st := c.Inspect(id); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 {
		t.Errorf("stopped before its start: got %s %d", st.GetState(), st.GetExitCode())
	}
}

func testStop(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	gentle := c.Start(sb, nil, "count")
	c.Eventually("it counts", func() error {
		if c.Log(gentle) == "" {
			return errMissing
		}
		return nil
	})
	begin := time.Now()
	if _, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: gentle, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a stop that is heard took %s", took)
	}
	if st := c.Inspect(gentle); st.GetExitCode() != 0 || !strings.HasSuffix(c.Log(gentle), "bye\n") {
		t.Errorf("stopped gently: got exit code %d", st.GetExitCode())
	}
	stuck := c.Start(sb, nil, "stuck")
	c.Eventually("it ignores signals", func() error {
		if c.Log(stuck) == "" {
			return errMissing
		}
		return nil
	})
	begin = time.Now()
	if _, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: stuck, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < time.Second || took > 5*time.Second {
		t.Errorf("a stop with a grace of 1s took %s", took)
	}
	if st := c.Inspect(stuck); st.GetExitCode() != 137 {
		t.Errorf("killed: got exit code %d, want 137", st.GetExitCode())
	}
}

func testOOM(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, func(p *cri.ContainerConfig) {
		p.Linux.Resources.MemoryLimitInBytes, p.Linux.Resources.MemorySwapLimitInBytes = 32<<20, 32<<20
	}, "memory")
	if st := c.WaitExit(id); st.GetReason() != "OOMKilled" || st.GetExitCode() != 137 {
		t.Errorf("got %s %d, want OOMKilled 137", st.GetReason(), st.GetExitCode())
	}
}

func testExecSync(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, nil, "sleep")
	answer, err := c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/workload", "exit", "7"}})
	if err != nil || answer.GetExitCode() != 7 || string(answer.GetStdout()) != "out\n" || string(answer.GetStderr()) != "err\n" {
		t.Errorf("got %v, %v", answer, err)
	}
	begin := time.Now()
	_, err = c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/workload", "stuck"}, Timeout: 1})
	wantCode(t, "timeout", err, codes.DeadlineExceeded)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("a timeout of 1s took %s", took)
	}
	if out, code := c.Run(id, "ls", "/proc"); code != 0 || strings.Count(out, "\n") < 2 {
		t.Errorf("ls /proc: %d %s", code, out)
	} else if procs := numbers(out); len(procs) != 2 {
		t.Errorf("processes after a timeout: got %v, want the container's and ls", procs)
	}
	_, err = c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such"}})
	answer, _ = c.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such"}})
	if err == nil && answer.GetExitCode() == 0 {
		t.Error("a command that does not exist succeeded")
	}
}

func numbers(list string) []string {
	return slices.DeleteFunc(strings.Fields(list), func(s string) bool { return strings.Trim(s, "0123456789") != "" })
}

func testSpec(t *testing.T, _ *Subject, c *Client) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	sb := c.Sandbox(func(p *cri.PodSandboxConfig) {
		p.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456"}
	})
	user := func(f func(*cri.LinuxContainerSecurityContext)) func(*cri.ContainerConfig) {
		return func(p *cri.ContainerConfig) { f(p.Linux.SecurityContext) }
	}
	mount := func(m *cri.Mount) func(*cri.ContainerConfig) {
		return func(p *cri.ContainerConfig) { p.Mounts = []*cri.Mount{m} }
	}
	for _, test := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		args   []string
		want   string
	}{
		{"root", nil, []string{"id"}, "uid=0 gid=0 groups=[0] cwd=/ hostname=test-host home=/root pid=1\n"},
		{"user by name", user(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "alice" }), []string{"id"}, "uid=1000 gid=1001 groups=[1001 2000] cwd=/ hostname=test-host home=/home/alice pid=1\n"},
		{"user by number", user(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup, s.SupplementalGroups = &cri.Int64Value{Value: 1234}, &cri.Int64Value{Value: 5}, []int64{77}
		}), []string{"id"}, "uid=1234 gid=5 groups=[5 77] cwd=/ hostname=test-host home=/ pid=1\n"},
		{"strict groups", user(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUsername, s.SupplementalGroupsPolicy = "alice", cri.SupplementalGroupsPolicy_Strict
		}), []string{"id"}, "uid=1000 gid=1001 groups=[1001] cwd=/ hostname=test-host home=/home/alice pid=1\n"},
		{"working directory", func(p *cri.ContainerConfig) { p.WorkingDir = "/data" }, []string{"id"}, "uid=0 gid=0 groups=[0] cwd=/data hostname=test-host home=/root pid=1\n"},
		{"environment", func(p *cri.ContainerConfig) { p.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("b c")}} }, []string{"env", "A"}, "b c\n"},
		{"resolv.conf", nil, []string{"cat", "/etc/resolv.conf"}, "search test.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"hostname file", nil, []string{"cat", "/etc/hostname"}, "test-host\n"},
		{"sysctl", nil, []string{"cat", "/proc/sys/net/ipv4/ip_forward"}, "1\n"},
		{"ipc sysctl", nil, []string{"cat", "/proc/sys/kernel/shmmax"}, "123456\n"},
		{"mount", mount(&cri.Mount{ContainerPath: "/mnt/x", HostPath: host}), []string{"cat", "/mnt/x/file"}, "from the host\n"},
		{"image volume", mount(&cri.Mount{ContainerPath: "/img", Image: &cri.ImageSpec{Image: ImageName}, ImageSubPath: "data", Readonly: true}), []string{"cat", "/img/keep"}, "keep\n"},
		{"default capabilities", nil, []string{"caps"}, "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t0\n"},
		{"no capabilities, default seccomp", user(func(s *cri.LinuxContainerSecurityContext) {
			s.NoNewPrivs, s.Seccomp = true, &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
			s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
		}), []string{"caps"}, "CapEff:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n"},
		{"privileged may mount", user(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true }), []string{"mount"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := c.In(t)
			c.logs, c.n = t.TempDir(), 1000+int(time.Now().UnixNano()%1e6)
			if got := c.Output(sb, test.change, test.args...); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	for _, test := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		args   []string
	}{
		{"read-only root", user(func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }), []string{"write", "/data/x", "y"}},
		{"read-only mount", mount(&cri.Mount{ContainerPath: "/mnt/x", HostPath: host, Readonly: true}), []string{"write", "/mnt/x/new", "y"}},
		{"unprivileged mount", nil, []string{"mount"}},
		{"masked path", nil, []string{"write", "/proc/sysrq-trigger", "h"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := c.In(t)
			c.n = 2000 + int(time.Now().UnixNano()%1e6)
			id := c.Start(sb, test.change, test.args...)
			if st := c.WaitExit(id); st.GetExitCode() == 0 {
				t.Error("it succeeded")
			}
		})
	}
}

func testSharedPID(t *testing.T, _ *Subject, c *Client) {
	pod := func(p *cri.ContainerConfig) {
		p.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	sb := c.Sandbox(func(p *cri.PodSandboxConfig) {
		p.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	first := c.Start(sb, pod, "sleep")
	if out, _ := c.Run(first, "ls", "/proc"); len(numbers(out)) != 3 {
		t.Errorf("processes: got %v, want the sandbox's, the container's and ls", numbers(out))
	}
	second := c.Start(sb, pod, "child")
	if st := c.WaitExit(second); st.GetExitCode() != 0 {
		t.Errorf("exit code %d", st.GetExitCode())
	}
	c.Eventually("what the container left is killed", func() error {
		if out, _ := c.Run(first, "ls", "/proc"); len(numbers(out)) != 3 {
			return fmt.Errorf("processes %v", numbers(out))
		}
		return nil
	})
	debug := c.Output(c.Sandbox(nil), nil, "id")
	if !strings.Contains(debug, "pid=1\n") {
		t.Errorf("own PID namespace: got %s", debug)
	}
}

func testResources(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, func(p *cri.ContainerConfig) {
		p.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 256, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500}
	}, "sleep")
	if out, _ := c.Run(id, "cat", "/proc/1/oom_score_adj"); out != "500\n" {
		t.Errorf("oom_score_adj: got %q", out)
	}
	if _, err := c.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 70000}}); err != nil {
		t.Fatal(err)
	}
	got := c.Inspect(id).GetResources().GetLinux()
	if got.GetMemoryLimitInBytes() != 96<<20 || got.GetCpuQuota() != 70000 || got.GetCpuShares() != 256 {
		t.Errorf("resources after the update: got %v", got)
	}
	file, want := "/sys/fs/cgroup/memory/memory.limit_in_bytes", fmt.Sprintf("%d\n", 96<<20)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		file = "/sys/fs/cgroup/memory.max"
	}
	if out, _ := c.Run(id, "cat", file); out != want {
		t.Errorf("%s: got %q, want %q", file, out, want)
	}
}
