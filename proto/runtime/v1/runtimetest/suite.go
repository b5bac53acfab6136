// Package runtimetest is the suite that each implementation of the runtime contract
// passes. It talks to a socket only, needs root and Go, and runs real containers.
package runtimetest

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Subject is a runtime under test.
type Subject struct {
	Socket  string
	Network *Network
	// Kill kills the runtime with SIGKILL; Start starts it again on the same
	// directories, and returns when it answers.
	Kill, Start func()
}

// Run runs the suite on a runtime that factory starts.
func Run(t *testing.T, factory func(t *testing.T) *Subject) {
	s := factory(t)
	c := Dial(t, s.Socket)
	workload := Workload(t)
	base := BaseLayer(t, workload)
	entrypoint := func(f *v1.ConfigFile) { f.Config.Entrypoint = []string{"/bin/workload"} }
	archive := OCIArchive(t, map[string]v1.Image{ImageName: Image(t, entrypoint, base)})
	if _, err := c.ImportTar(archive, ""); err != nil {
		t.Fatalf("Import: %v", err)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Subject, *Client)
	}{
		{"Identity", testIdentity}, {"Lifecycle", testLifecycle}, {"Lists", testLists}, {"ExitCodes", testExitCodes}, {"Stop", testStop},
		{"OOM", testOOM}, {"ExecSync", testExecSync}, {"Spec", testSpec}, {"SharedPID", testSharedPID}, {"HostNetwork", testHostNetwork},
		{"NetworkFails", testNetworkFails}, {"Logs", testLogs}, {"Resources", testResources}, {"Events", testEvents}, {"Stats", testStats},
		{"Streams", testStreams}, {"Restart", testRestart}, {"Errors", testErrors},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s, c.In(t)) })
	}
	t.Run("Images", func(t *testing.T) { testImages(t, c.In(t), base, archive) })
}

func wantCode(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Errorf("%s: got code %s (%v), want %s", what, got, err, code)
	}
}

func testIdentity(t *testing.T, _ *Subject, c *Client) {
	version, err := c.Version(t.Context(), &cri.VersionRequest{})
	if err != nil || version.GetRuntimeName() == "" || version.GetRuntimeApiVersion() != "v1" {
		t.Errorf("Version: got %v, %v", version, err)
	}
	st, err := c.RuntimeServiceClient.Status(t.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, cond := range st.GetStatus().GetConditions() {
		if !cond.GetStatus() {
			t.Errorf("condition %s: %s", cond.GetType(), cond.GetMessage())
		}
	}
	if config, err := c.RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{}); err != nil || config.GetLinux().GetCgroupDriver() != cri.CgroupDriver_CGROUPFS {
		t.Errorf("RuntimeConfig: got %v, %v", config, err)
	}
}

func testLifecycle(t *testing.T, s *Subject, c *Client) {
	joined := s.Network.Joined()
	sb := c.Sandbox(nil)
	if got := s.Network.Joined(); got != joined+1 {
		t.Errorf("sandboxes on the network: got %d, want %d", got, joined+1)
	}
	st, err := c.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sb, Verbose: true})
	if err != nil || st.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY || !strings.HasPrefix(st.GetStatus().GetNetwork().GetIp(), "10.249.") {
		t.Fatalf("PodSandboxStatus: got %v, %v", st, err)
	}
	id := c.Create(sb, nil, "echo", "hello")
	if got := c.Inspect(id); got.GetState() != cri.ContainerState_CONTAINER_CREATED || got.GetCreatedAt() == 0 || got.GetStartedAt() != 0 {
		t.Errorf("created container: got %v", got)
	}
	if _, err := c.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	got := c.WaitExit(id)
	if got.GetExitCode() != 0 || got.GetReason() != "Completed" || got.GetStartedAt() < got.GetCreatedAt() || got.GetFinishedAt() < got.GetStartedAt() {
		t.Errorf("ended container: got %v", got)
	}
	if log := c.Log(id); log != "hello\n" {
		t.Errorf("log: got %q", log)
	}
	if _, err := c.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("second start: got %v", err)
	}
	running := c.Start(sb, nil, "sleep")
	if _, err := c.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sb}); err != nil {
		t.Fatal(err)
	}
	if got := c.Inspect(running); got.GetState() != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("container of a stopped sandbox: got %v", got)
	}
	if got := s.Network.Joined(); got != joined {
		t.Errorf("sandboxes on the network after the stop: got %d, want %d", got, joined)
	}
	for range 2 {
		if _, err := c.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sb}); err != nil {
			t.Errorf("repeated stop: %v", err)
		}
		if _, err := c.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
			t.Errorf("repeated remove: %v", err)
		}
	}
	_, err = c.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sb, Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "x"}, Image: &cri.ImageSpec{Image: ImageName}}})
	wantCode(t, "create in a stopped sandbox", err, codes.FailedPrecondition)
}

func testLists(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(func(p *cri.PodSandboxConfig) { p.Labels = map[string]string{"a": "1", "b": "2"} })
	id := c.Start(sb, func(p *cri.ContainerConfig) { p.Labels = map[string]string{"x": "y"} }, "sleep")
	pods := func(f *cri.PodSandboxFilter) int {
		answer, err := c.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return len(answer.GetItems())
	}
	containers := func(f *cri.ContainerFilter) int {
		answer, err := c.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return len(answer.GetContainers())
	}
	notReady := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	exited := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}
	for _, test := range []struct {
		name      string
		got, want int
	}{
		{"sandbox by id", pods(&cri.PodSandboxFilter{Id: sb}), 1},
		{"sandbox by short id", pods(&cri.PodSandboxFilter{Id: sb[:12]}), 1},
		{"sandbox by label", pods(&cri.PodSandboxFilter{LabelSelector: map[string]string{"a": "1", "b": "2"}}), 1},
		{"sandbox by wrong label", pods(&cri.PodSandboxFilter{LabelSelector: map[string]string{"a": "2"}}), 0},
		{"sandbox by wrong state", pods(&cri.PodSandboxFilter{Id: sb, State: notReady}), 0},
		{"container by id", containers(&cri.ContainerFilter{Id: id}), 1},
		{"container by sandbox", containers(&cri.ContainerFilter{PodSandboxId: sb}), 1},
		{"container by label", containers(&cri.ContainerFilter{LabelSelector: map[string]string{"x": "y"}}), 1},
		{"container by wrong state", containers(&cri.ContainerFilter{Id: id, State: exited}), 0},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, test.got, test.want)
		}
	}
}

func testHostNetwork(t *testing.T, s *Subject, c *Client) {
	joined := s.Network.Joined()
	sb := c.Sandbox(func(p *cri.PodSandboxConfig) {
		o := p.Linux.SecurityContext.NamespaceOptions
		o.Network, o.Pid, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
	})
	if got := s.Network.Joined(); got != joined {
		t.Error("a pod on the host's network was joined to the pods' network")
	}
	out := c.Output(sb, func(p *cri.ContainerConfig) {
		o := p.Linux.SecurityContext.NamespaceOptions
		o.Network, o.Pid, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
	}, "id")
	name, _ := os.Hostname()
	if strings.Contains(out, "pid=1\n") || !strings.Contains(out, "hostname="+name+" ") {
		t.Errorf("got %s", out)
	}
}

func testNetworkFails(t *testing.T, s *Subject, c *Client) {
	s.Network.SetFail(true)
	defer s.Network.SetFail(false)
	before, err := c.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: c.sandboxConfig(nil)})
	if wantCode(t, "sandbox without a network", err, codes.Unavailable); err == nil || !strings.Contains(err.Error(), "no pod range yet") {
		t.Errorf("the network's reason is lost: %v", err)
	}
	after, err := c.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(after.GetItems()) != len(before.GetItems()) {
		t.Errorf("sandboxes: got %d, want %d (%v)", len(after.GetItems()), len(before.GetItems()), err)
	}
	st, err := c.RuntimeServiceClient.Status(t.Context(), &cri.StatusRequest{})
	if err != nil || st.GetStatus().GetConditions()[1].GetStatus() {
		t.Errorf("NetworkReady: got %v, %v", st, err)
	}
}

func testLogs(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, nil, "count")
	path := c.Inspect(id).GetLogPath()
	c.Eventually("the log begins", func() error {
		if data, err := os.ReadFile(path); err != nil || !bytes.Contains(data, []byte(" stdout F 1\n")) {
			return errMissing
		}
		return nil
	})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReopenContainerLog(t.Context(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the log goes on in a new file", func() error {
		if data, err := os.ReadFile(path); err != nil || len(data) == 0 {
			return errMissing
		}
		return nil
	})
}

func testEvents(t *testing.T, _ *Subject, c *Client) {
	stream, err := c.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	sb := c.Sandbox(nil)
	id := c.Start(sb, nil, "exit", "3")
	c.WaitExit(id)
	if _, err := c.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	var kinds []cri.ContainerEventType
	for len(kinds) < 4 {
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if event.GetContainerId() != id {
			continue
		}
		kinds = append(kinds, event.GetContainerEventType())
		if event.GetPodSandboxStatus().GetId() != sb {
			t.Errorf("event %s has the sandbox %q", event.GetContainerEventType(), event.GetPodSandboxStatus().GetId())
		}
		if event.GetContainerEventType() == cri.ContainerEventType_CONTAINER_STOPPED_EVENT && event.GetContainersStatuses()[0].GetExitCode() != 3 {
			t.Errorf("stopped event: got %v", event)
		}
	}
	want := []cri.ContainerEventType{cri.ContainerEventType_CONTAINER_CREATED_EVENT, cri.ContainerEventType_CONTAINER_STARTED_EVENT, cri.ContainerEventType_CONTAINER_STOPPED_EVENT, cri.ContainerEventType_CONTAINER_DELETED_EVENT}
	if !slices.Equal(kinds, want) {
		t.Errorf("events: got %v, want %v", kinds, want)
	}
}

func testStats(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, nil, "count")
	if _, code := c.Run(id, "write", "/data/new", strings.Repeat("x", 100000)); code != 0 {
		t.Fatal("write")
	}
	answer, err := c.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	st := answer.GetStats()
	if st.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || st.GetMemory().GetWorkingSetBytes().GetValue() == 0 || st.GetWritableLayer().GetUsedBytes().GetValue() < 100000 {
		t.Errorf("ContainerStats: got %v", st)
	}
	pod, err := c.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: sb})
	if err != nil || len(pod.GetStats().GetLinux().GetContainers()) != 1 || pod.GetStats().GetLinux().GetProcess().GetProcessCount().GetValue() == 0 ||
		pod.GetStats().GetLinux().GetNetwork().GetDefaultInterface().GetName() != "eth0" {
		t.Errorf("PodSandboxStats: got %v, %v", pod, err)
	}
	list, err := c.ListContainerStats(t.Context(), &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: sb}})
	if err != nil || len(list.GetStats()) != 1 {
		t.Errorf("ListContainerStats: got %v, %v", list, err)
	}
	fs, err := c.ImageFsInfo(t.Context(), &cri.ImageFsInfoRequest{})
	if err != nil || fs.GetImageFilesystems()[0].GetUsedBytes().GetValue() == 0 {
		t.Errorf("ImageFsInfo: got %v, %v", fs, err)
	}
}

func testErrors(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	create := func(change func(*cri.ContainerConfig)) error {
		config := &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "bad"}, Image: &cri.ImageSpec{Image: ImageName}, Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}}}
		change(config)
		_, err := c.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sb, Config: config})
		return err
	}
	for _, test := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		code   codes.Code
	}{
		{"unknown image", func(p *cri.ContainerConfig) { p.Image.Image = "no/such" }, codes.NotFound},
		{"unknown user", func(p *cri.ContainerConfig) { p.Linux.SecurityContext.RunAsUsername = "bob" }, codes.InvalidArgument},
		{"unknown capability", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}}
		}, codes.InvalidArgument},
		{"relative host path", func(p *cri.ContainerConfig) { p.Mounts = []*cri.Mount{{ContainerPath: "/x", HostPath: "y"}} }, codes.InvalidArgument},
		{"no such program", func(p *cri.ContainerConfig) { p.Command = []string{"/no/such/program"} }, codes.Unknown},
	} {
		wantCode(t, test.name, create(test.change), test.code)
	}
	list, err := c.ListContainers(t.Context(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: sb}})
	if err != nil || len(list.GetContainers()) != 0 {
		t.Errorf("containers left by failures: %v, %v", list, err)
	}
	_, err = c.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: "0123456789"})
	wantCode(t, "status of an unknown container", err, codes.NotFound)
	_, err = c.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: "0123456789"})
	wantCode(t, "status of an unknown sandbox", err, codes.NotFound)
	_, err = c.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: c.sandboxConfig(func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"kernel.panic": "1"} })})
	wantCode(t, "sysctl of the machine", err, codes.InvalidArgument)
	_, err = c.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: c.sandboxConfig(nil), RuntimeHandler: "kata"})
	wantCode(t, "unknown handler", err, codes.InvalidArgument)
	_, err = c.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{})
	wantCode(t, "checkpoint", err, codes.Unimplemented)
}
