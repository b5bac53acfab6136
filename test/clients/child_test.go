package clients

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/test/harness"
)

// childProcess is an API server in a process of its own, which can be killed.
type childProcess struct {
	t      *testing.T
	dir    string
	addr   string
	window time.Duration // how long the store keeps old versions
	cmd    *exec.Cmd     // nil: it does not run
}

// startChild runs a server until the test ends.
func startChild(t *testing.T, window time.Duration) *childProcess {
	t.Helper()
	c := &childProcess{t: t, dir: t.TempDir(), window: window, addr: freeAddr(t)}
	c.start(c.addr)
	t.Cleanup(func() { c.end(syscall.SIGKILL) })
	return c
}

// freeAddr is an address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the server on addr and waits until it is ready.
func (c *childProcess) start(addr string) {
	c.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childMode+"=server", childDir+"="+c.dir, childAddr+"="+addr, childWindow+"="+c.window.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.cmd = cmd
	line, err := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		c.end(syscall.SIGKILL)
		c.t.Fatalf("server on %s: said %q, %v; want ready", addr, line, err)
	}
}

// end sends a signal and waits for the process.
func (c *childProcess) end(sig os.Signal) {
	c.t.Helper()
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Signal(sig)
	if err := c.cmd.Wait(); err != nil && sig == syscall.SIGTERM {
		c.t.Errorf("the server did not end well: %v", err)
	}
	c.cmd = nil
}

// config is an administrator's for the server on addr.
func (c *childProcess) config(addr string) *rest.Config {
	c.t.Helper()
	authority, err := pki.Open(filepath.Join(c.dir, "pki"))
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := harness.As(authority, addr, "admin", "system:masters")
	if err != nil {
		c.t.Fatal(err)
	}
	return config
}
