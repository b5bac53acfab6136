package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	runtimev1 "keelson.dev/keelson/proto/runtime/v1"
)

// ImageName is the image that Client's containers run by default.
const ImageName = "example/workload:v1"

// Client calls a runtime and fails the test where a call must not fail.
type Client struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
	runtimev1.ImageImportServiceClient
	t    testing.TB
	logs string
	n    int
}

// Dial connects to a runtime's socket.
func Dial(t testing.TB, socket string) *Client {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &Client{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn), runtimev1.NewImageImportServiceClient(conn), t, t.TempDir(), 0}
}

// In is the same client for a subtest.
func (c *Client) In(t testing.TB) *Client {
	out := *c
	out.t, out.logs = t, t.TempDir()
	return &out
}

// ImportTar imports an archive.
func (c *Client) ImportTar(data []byte, name string) (*runtimev1.ImportResponse, error) {
	stream, err := c.ImageImportServiceClient.Import(c.t.Context())
	if err != nil {
		return nil, err
	}
	const chunk = 256 << 10
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), chunk)
		req := &runtimev1.ImportRequest{Chunk: data[:n]}
		if first {
			req.Name = name
		}
		if err := stream.Send(req); err != nil {
			break // the answer says why
		}
		data = data[n:]
	}
	return stream.CloseAndRecv()
}

func (c *Client) sandboxConfig(change func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	c.n++
	name := fmt.Sprintf("pod-%d", time.Now().UnixNano())
	config := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "test", Uid: name + "-uid"}, Hostname: "test-host", LogDirectory: filepath.Join(c.logs, name),
		DnsConfig: &cri.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"test.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Labels:    map[string]string{"app": name},
		Linux:     &cri.LinuxPodSandboxConfig{CgroupParent: "/keelson/pods/pod" + name, SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
	if change != nil {
		change(config)
	}
	return config
}

// Sandbox runs a sandbox that is removed with the test.
func (c *Client) Sandbox(change func(*cri.PodSandboxConfig)) string {
	c.t.Helper()
	answer, err := c.RunPodSandbox(c.t.Context(), &cri.RunPodSandboxRequest{Config: c.sandboxConfig(change)})
	if err != nil {
		c.t.Fatalf("RunPodSandbox: %v", err)
	}
	id := answer.GetPodSandboxId()
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second) // the test's context has ended
		defer cancel()
		if _, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			c.t.Errorf("RemovePodSandbox: %v", err)
		}
	})
	return id
}

// Create creates a container that runs the workload with arguments.
func (c *Client) Create(sandbox string, change func(*cri.ContainerConfig), args ...string) string {
	c.t.Helper()
	c.n++
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: fmt.Sprintf("c%d", c.n)}, Image: &cri.ImageSpec{Image: ImageName}, Args: args, LogPath: fmt.Sprintf("c%d.log", c.n),
		Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{}, SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
	if change != nil {
		change(config)
	}
	answer, err := c.CreateContainer(c.t.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: config})
	if err != nil {
		c.t.Fatalf("CreateContainer: %v", err)
	}
	return answer.GetContainerId()
}

// Start creates and starts a container.
func (c *Client) Start(sandbox string, change func(*cri.ContainerConfig), args ...string) string {
	c.t.Helper()
	id := c.Create(sandbox, change, args...)
	if _, err := c.StartContainer(c.t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		c.t.Fatalf("StartContainer: %v", err)
	}
	return id
}

// Inspect answers a container's status.
func (c *Client) Inspect(id string) *cri.ContainerStatus {
	c.t.Helper()
	answer, err := c.ContainerStatus(c.t.Context(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		c.t.Fatalf("ContainerStatus: %v", err)
	}
	return answer.GetStatus()
}

// WaitExit waits for a container's end.
func (c *Client) WaitExit(id string) *cri.ContainerStatus {
	c.t.Helper()
	var st *cri.ContainerStatus
	c.Eventually("container ends", func() error {
		if st = c.Inspect(id); st.GetState() != cri.ContainerState_CONTAINER_EXITED {
			return fmt.Errorf("it is %s", st.GetState())
		}
		return nil
	})
	return st
}

// Eventually polls until f is content.
func (c *Client) Eventually(what string, f func() error) {
	c.t.Helper()
	Eventually(c.t, what, f)
}

// Eventually polls until f is content, at most 15 s.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 15s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Log answers what a container logged, without the log's own columns.
func (c *Client) Log(id string) string {
	c.t.Helper()
	data, err := os.ReadFile(c.Inspect(id).GetLogPath())
	if err != nil {
		c.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 {
			c.t.Fatalf("log line %q is not CRI's", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, f[0]); err != nil {
			c.t.Fatalf("log line %q: %v", line, err)
		}
		out.WriteString(f[3])
	}
	return out.String()
}

// Output runs a container to its end, and answers its log; the exit code has to be 0.
func (c *Client) Output(sandbox string, change func(*cri.ContainerConfig), args ...string) string {
	c.t.Helper()
	id := c.Start(sandbox, change, args...)
	if st := c.WaitExit(id); st.GetExitCode() != 0 {
		c.t.Fatalf("%v ended with %d (%s): %s", args, st.GetExitCode(), st.GetReason(), c.Log(id))
	}
	return c.Log(id)
}

// Run executes a command in a container.
func (c *Client) Run(id string, args ...string) (string, int32) {
	c.t.Helper()
	answer, err := c.ExecSync(c.t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: append([]string{"/bin/workload"}, args...), Timeout: 10})
	if err != nil {
		c.t.Fatalf("ExecSync %v: %v", args, err)
	}
	return string(bytes.Join([][]byte{answer.GetStdout(), answer.GetStderr()}, nil)), answer.GetExitCode()
}

var errMissing = errors.New("missing")
