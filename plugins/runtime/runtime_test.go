package runtime

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
	"keelson.dev/keelson/test/need"
)

// serveEnv makes the test binary a runtime plugin on the directory it names: to be
// killed with SIGKILL, a runtime has to be a process.
const serveEnv = "KEELSON_TEST_RUNTIME"

// pauseEnv names the binary for sandboxes' own processes, where the test's is linked dynamically.
const pauseEnv = "KEELSON_TEST_PAUSE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		if err := serveDir(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveDir(dir string) error {
	if path := os.Getenv(pauseEnv); path != "" {
		executable = func() (string, error) { return path, nil }
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	env := &kit.Env{Name: "runtime", Version: "test", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), DataDir: dir + "/data", RunDir: dir + "/run",
		Listen: dir + "/runtime.sock", Endpoints: map[string]string{"network": dir + "/network.sock"}, Health: &kit.Health{}}
	runner, err := Plugin.New(env)
	if err != nil {
		return err
	}
	return runner.Start(ctx)
}

func needRuntime(t testing.TB) {
	t.Helper()
	need.Root(t)
	for _, name := range []string{"crun", "conmon"} {
		if _, err := lookPath(name); err != nil {
			need.Missing(t, "%s: %v", name, err)
		}
	}
}

// process is a runtime in a process of its own.
type process struct {
	t   testing.TB
	dir string
	cmd *exec.Cmd
}

func newProcess(t testing.TB) *process {
	t.Helper()
	needRuntime(t)
	dir, err := os.MkdirTemp("", "krt") //nolint:usetesting // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir}
	t.Cleanup(func() {
		p.stop(syscall.SIGTERM)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // the test's context has ended
		defer cancel()
		if err := Purge(ctx, dir+"/data", dir+"/run", slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("Purge: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{"/data", "/run"} {
		if err := os.Mkdir(dir+sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// staticPause builds a binary for sandboxes' own processes unless the test's own can be one.
func staticPause(t testing.TB, self string) string {
	t.Helper()
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return ""
	}
	out := filepath.Join(t.TempDir(), "pause")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", out, "./testdata/pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the sandboxes' process: %v\n%s", err, text)
	}
	return out
}

func (p *process) start() {
	p.t.Helper()
	self, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), serveEnv+"="+p.dir, pauseEnv+"="+staticPause(p.t, self))
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) stop(sig os.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (p *process) socket() string { return p.dir + "/runtime.sock" }

func TestRootContract(t *testing.T) {
	p := newProcess(t)
	network := runtimetest.ServeNetwork(t, p.dir+"/network.sock")
	p.start()
	runtimetest.Run(t, func(*testing.T) *runtimetest.Subject {
		return &runtimetest.Subject{Socket: p.socket(), Network: network, Kill: func() { p.stop(syscall.SIGKILL) }, Start: p.start}
	})
}

// client starts a runtime with the workload's image.
func (p *process) client() *runtimetest.Client {
	p.t.Helper()
	runtimetest.ServeNetwork(p.t, p.dir+"/network.sock")
	p.start()
	c := runtimetest.Dial(p.t, p.socket())
	base := runtimetest.BaseLayer(p.t, runtimetest.Workload(p.t))
	img := runtimetest.Image(p.t, func(f *v1.ConfigFile) { f.Config.Entrypoint = []string{"/bin/workload"} }, base)
	if _, err := c.ImportTar(runtimetest.OCIArchive(p.t, map[string]v1.Image{runtimetest.ImageName: img}), ""); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// run runs a sandbox with one container that stays, without cleaning up.
func run(t testing.TB, c *runtimetest.Client, name string, args ...string) (sandbox, id string) {
	t.Helper()
	return runOn(t, c, cri.NamespaceMode_POD, name, args...)
}

// runOn says on whose network.
func runOn(t testing.TB, c *runtimetest.Client, network cri.NamespaceMode, name string, args ...string) (sandbox, id string) {
	t.Helper()
	pod := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name}, LogDirectory: t.TempDir(),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER}}}}
	sb, err := c.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sb.GetPodSandboxId(), Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: runtimetest.ImageName}, Args: args, LogPath: "c.log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER},
			Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: answer.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return sb.GetPodSandboxId(), answer.GetContainerId()
}

func TestRootConmonIsNotOurs(t *testing.T) {
	p := newProcess(t)
	c := p.client()
	_, id := run(t, c, "krt-conmon", "sleep")
	var rec containerRecord
	if err := readRecord(filepath.Join(p.dir, "data", "containers", id, "record.json"), &rec); err != nil {
		t.Fatal(err)
	}
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", rec.ConmonPid))
	if err != nil {
		t.Fatal(err)
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(cgroups)) {
		if host.Mounted(line) && !strings.HasSuffix(strings.TrimSpace(line), ":"+conmonCgroup) {
			t.Errorf("conmon is in cgroup %s", line)
		}
	}
	if sid, err := syscall.Getpgid(rec.ConmonPid); err != nil || sid == p.cmd.Process.Pid {
		t.Errorf("conmon's process group: %d, %v", sid, err)
	}
}

// TestRootConmonKilled checks that a container that lost its monitor is ended and
// reported, not left without a log.
func TestRootConmonKilled(t *testing.T) {
	p := newProcess(t)
	c := p.client()
	_, id := run(t, c, "krt-conmon-killed", "sleep")
	var rec containerRecord
	if err := readRecord(filepath.Join(p.dir, "data", "containers", id, "record.json"), &rec); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(rec.ConmonPid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := c.WaitExit(id); st.GetExitCode() != 137 || !strings.Contains(st.GetMessage(), "conmon") {
		t.Errorf("got %v", st)
	}
}

func TestRootReboot(t *testing.T) {
	p := newProcess(t)
	c := p.client()
	sb, id := run(t, c, "krt-reboot", "sleep")
	p.stop(syscall.SIGKILL)
	var rec containerRecord
	if err := readRecord(filepath.Join(p.dir, "data", "containers", id, "record.json"), &rec); err != nil {
		t.Fatal(err)
	}
	// What a reboot does: processes and mounts are gone, and the boot id is another.
	for _, pid := range []int{rec.ConmonPid, rec.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	runtimetest.Eventually(t, "processes end", func() error {
		if alive(rec.Pid, rec.PidStart) {
			return fmt.Errorf("process %d", rec.Pid)
		}
		return nil
	})
	if err := os.WriteFile(p.dir+"/data/boot-id", []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mounts.DetachBelow(p.dir + "/run"); err != nil {
		t.Fatal(err)
	}
	p.start()
	runtimetest.Eventually(t, "the runtime answers", func() error {
		_, err := c.Version(t.Context(), &cri.VersionRequest{})
		return err
	})
	if st := c.Inspect(id); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != exitUnknown {
		t.Errorf("container after a reboot: got %v", st)
	}
	st, err := c.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sb})
	if err != nil || st.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("sandbox after a reboot: got %v, %v", st, err)
	}
	if _, err := c.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sb}); err != nil {
		t.Errorf("RemovePodSandbox: %v", err)
	}
	run(t, c, "krt-reboot-2", "sleep")
}

// TestRootHalfMade kills the runtime while it makes containers, and checks that
// nothing of them is left.
func TestRootHalfMade(t *testing.T) {
	p := newProcess(t)
	c := p.client()
	sb, _ := run(t, c, "krt-half", "sleep")
	for i := range 4 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sb, Config: &cri.ContainerConfig{
				Metadata: &cri.ContainerMetadata{Name: "half"}, Image: &cri.ImageSpec{Image: runtimetest.ImageName}, Args: []string{"sleep"}}})
		}()
		timer := time.NewTimer(time.Duration(5+8*i) * time.Millisecond)
		<-timer.C
		p.stop(syscall.SIGKILL)
		p.start()
		<-done
		runtimetest.Eventually(t, "the runtime answers", func() error {
			_, err := c.Version(t.Context(), &cri.VersionRequest{})
			return err
		})
		list, err := c.ListContainers(t.Context(), &cri.ListContainersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		dirs, _ := os.ReadDir(p.dir + "/data/containers")
		states, _ := os.ReadDir(p.dir + "/run/oci")
		if len(dirs) != len(list.GetContainers()) || len(states) != len(list.GetContainers()) {
			t.Errorf("after kill %d: %d containers, %d directories, %d states of the OCI runtime", i, len(list.GetContainers()), len(dirs), len(states))
		}
		for _, item := range list.GetContainers() {
			if item.GetState() == cri.ContainerState_CONTAINER_UNKNOWN {
				t.Errorf("container in an unknown state: %v", item)
			}
		}
	}
}

func TestRootPurge(t *testing.T) {
	p := newProcess(t)
	c := p.client()
	_, id := run(t, c, "krt-purge", "stuck")
	var rec containerRecord
	if err := readRecord(filepath.Join(p.dir, "data", "containers", id, "record.json"), &rec); err != nil {
		t.Fatal(err)
	}
	p.stop(syscall.SIGTERM)
	if !alive(rec.Pid, rec.PidStart) {
		t.Error("the container ended with the runtime")
	}
	other := newProcess(t) // another Keelson on this machine
	_, otherID := runOn(t, other.client(), cri.NamespaceMode_NODE, "krt-other", "stuck")
	var foreign containerRecord
	if err := readRecord(filepath.Join(other.dir, "data", "containers", otherID, "record.json"), &foreign); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := Purge(ctx, p.dir+"/data", p.dir+"/run", slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if alive(rec.Pid, rec.PidStart) || alive(rec.ConmonPid, rec.ConmonStart) {
		t.Error("processes are left")
	}
	if !alive(foreign.Pid, foreign.PidStart) || !alive(foreign.ConmonPid, foreign.ConmonStart) {
		t.Error("another Keelson's container was killed")
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil || len(mounts) != 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range host.Dirs(podsCgroup + "/podkrt-purge") {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("cgroup left: %s", dir)
		}
	}
	for _, sub := range []string{"/data", "/run"} {
		if _, err := os.Stat(p.dir + sub); err == nil {
			t.Errorf("%s is left", sub)
		}
	}
}

func TestRootFullDisk(t *testing.T) {
	p := newProcess(t)
	if err := syscall.Mount("small", p.dir+"/data", "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	p.start()
	c := runtimetest.Dial(t, p.socket())
	img := runtimetest.Image(t, nil, runtimetest.Layer(t, runtimetest.Entry{Name: "big", Body: string(bytes.Repeat([]byte("x"), 6<<20))}))
	_, err := c.ImportTar(runtimetest.OCIArchive(t, map[string]v1.Image{"example/big:1": img}), "")
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("import on a full disk: got %v", err)
	}
	for _, sub := range []string{"layers", "tmp", "images"} {
		if left, _ := os.ReadDir(p.dir + "/data/images/" + sub); len(left) != 0 {
			t.Errorf("left in %s: %v", sub, left)
		}
	}
}

func BenchmarkRootPod(b *testing.B) {
	p := newProcess(b)
	c := p.client()
	i := 0
	for b.Loop() {
		i++
		sb, _ := run(b, c, fmt.Sprintf("krt-bench-%d", i), "sleep")
		b.StopTimer()
		if _, err := c.RemovePodSandbox(b.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sb}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
