package runtimetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func executors(t *testing.T, raw string) map[string]remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: u.Host}
	spdyExec, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	if err != nil {
		t.Fatal(err)
	}
	wsExec, err := remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, raw, "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": spdyExec, "WebSocket": wsExec}
}

func testStreams(t *testing.T, _ *Subject, c *Client) {
	sb := c.Sandbox(nil)
	id := c.Start(sb, nil, "serve", "8080")
	c.Eventually("it serves", func() error {
		if c.Log(id) != "ready\n" {
			return errMissing
		}
		return nil
	})
	for _, protocol := range []string{"SPDY", "WebSocket"} {
		t.Run("Exec"+protocol, func(t *testing.T) { testExec(t, c, id, protocol) })
		t.Run("Terminal"+protocol, func(t *testing.T) { testTerminal(t, c, id, protocol) })
	}
	t.Run("Attach", func(t *testing.T) { testAttach(t, c.In(t), "SPDY") })
	t.Run("PortForward", func(t *testing.T) { testPortForward(t, c, sb) })
}

func execURL(t *testing.T, c *Client, req *cri.ExecRequest) string {
	t.Helper()
	answer, err := c.Exec(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetUrl()
}

func testExec(t *testing.T, c *Client, id, protocol string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	if protocol == "SPDY" { // version 4 over WebSocket cannot close standard input
		u := execURL(t, c, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/bin/workload", "upper"}, Stdin: true, Stdout: true, Stderr: true})
		if err := executors(t, u)[protocol].StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: &errOut}); err != nil {
			t.Fatal(err)
		}
		if out.String() != "ONE\nTWO\nEND\n" {
			t.Errorf("got %q", out.String())
		}
	}
	u := execURL(t, c, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/bin/workload", "exit", "5"}, Stdout: true, Stderr: true})
	out.Reset()
	err := executors(t, u)[protocol].StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 5 || out.String() != "out\n" || errOut.String() != "err\n" {
		t.Errorf("exit 5: got %v, %q, %q", err, out.String(), errOut.String())
	}
}

type oneSize struct{ sent bool }

func (s *oneSize) Next() *remotecommand.TerminalSize {
	if s.sent {
		return nil
	}
	s.sent = true
	return &remotecommand.TerminalSize{Width: 100, Height: 40}
}

func testTerminal(t *testing.T, c *Client, id, protocol string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	u := execURL(t, c, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/bin/workload", "size"}, Tty: true, Stdin: true, Stdout: true})
	in, hold := io.Pipe()
	defer hold.Close()
	var out bytes.Buffer
	if err := executors(t, u)[protocol].StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{}}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "size=100x40\r\n" {
		t.Errorf("got %q", out.String())
	}
}

func testAttach(t *testing.T, c *Client, protocol string) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sb := c.Sandbox(nil)
	id := c.Start(sb, func(p *cri.ContainerConfig) { p.Stdin, p.StdinOnce = true, true }, "upper")
	answer, err := c.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := executors(t, answer.GetUrl())[protocol].StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "HELLO\nEND\n" {
		t.Errorf("got %q", out.String())
	}
	if st := c.WaitExit(id); st.GetExitCode() != 0 || c.Log(id) != "HELLO\nEND\n" {
		t.Errorf("exit code %d, log %q", st.GetExitCode(), c.Log(id))
	}
}

func testPortForward(t *testing.T, c *Client, sb string) {
	answer, err := c.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: sb, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(answer.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	roundTripper, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, u), []string{"0:8080"}, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	defer func() {
		close(stop)
		<-done
	}()
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("message %d", i)
		if _, err := conn.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		conn.Close()
	}
}

func testRestart(t *testing.T, s *Subject, c *Client) {
	sb := c.Sandbox(nil)
	running := c.Start(sb, nil, "count")
	stopped := c.Start(sb, nil, "exit", "9")
	c.WaitExit(stopped)
	created := c.Create(sb, nil, "echo", "later")
	pid := func(id string) int {
		answer, err := c.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		var info struct{ Pid int }
		if err := json.Unmarshal([]byte(answer.GetInfo()["info"]), &info); err != nil {
			t.Fatal(err)
		}
		return info.Pid
	}
	before, dying := pid(running), c.Start(sb, nil, "sleep")
	dyingPid := pid(dying)
	s.Kill()
	if proc, err := os.FindProcess(dyingPid); err != nil || proc.Kill() != nil {
		t.Error("a container died with the runtime")
	}
	begin := time.Now()
	s.Start()
	c.Eventually("the runtime answers", func() error {
		_, err := c.Version(t.Context(), &cri.VersionRequest{})
		if status.Code(err) == codes.Unavailable {
			return err
		}
		return nil
	})
	t.Logf("back after %s", time.Since(begin))
	if st := c.Inspect(running); st.GetState() != cri.ContainerState_CONTAINER_RUNNING || pid(running) != before {
		t.Errorf("running container after the restart: got %v", st)
	}
	if st := c.Inspect(stopped); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 9 {
		t.Errorf("ended container after the restart: got %v", st)
	}
	if st := c.WaitExit(dying); st.GetExitCode() != 137 {
		t.Errorf("container that died meanwhile: got %v", st)
	}
	if out, code := c.Run(running, "echo", "x"); code != 0 || out != "x\n" {
		t.Errorf("exec after the restart: got %q, %d", out, code)
	}
	if _, err := c.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: created}); err != nil {
		t.Errorf("start after the restart: %v", err)
	}
	if st := c.WaitExit(created); st.GetExitCode() != 0 || c.Log(created) != "later\n" {
		t.Errorf("started after the restart: got %v", st)
	}
	lines := strings.Count(c.Log(running), "\n")
	c.Eventually("the log goes on", func() error {
		if strings.Count(c.Log(running), "\n") <= lines {
			return errMissing
		}
		return nil
	})
	if _, err := c.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: running, Timeout: 10}); err != nil || c.Inspect(running).GetExitCode() != 0 {
		t.Errorf("stop after the restart: %v, %v", err, c.Inspect(running))
	}
}
