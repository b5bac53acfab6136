package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"keelson.dev/keelson/test/need"
)

// repository is the root of the source tree.
const repository = "../.."

// machine is a network namespace with folders of its own: to keelson it is a host.
type machine struct {
	t          *testing.T
	ns         string // name of the network namespace
	ip         string
	data, run  string
	kubeconfig string
	bin        string
}

// newMachine makes a machine with one link, on which address and default route lie.
func newMachine(t *testing.T, name, ip string) *machine {
	t.Helper()
	need.Root(t)
	bin := os.Getenv("KEELSON_BIN")
	if bin == "" {
		t.Fatal("KEELSON_BIN must name the binary to test: run make e2e")
	}
	// Not t.TempDir: its long path has no room for the names of Unix sockets.
	dir, err := os.MkdirTemp("", "keelson-e2e-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		t: t, ns: fmt.Sprintf("ke2e-%s-%d", name, os.Getpid()), ip: ip, bin: bin,
		data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"), kubeconfig: filepath.Join(dir, "kubeconfig"),
	}
	must(t, exec.Command("ip", "netns", "add", m.ns))
	t.Cleanup(func() {
		if out, err := m.command("keelson", "uninstall", "--yes").CombinedOutput(); err != nil {
			t.Errorf("uninstall at the end: %v: %s", err, out)
		}
		must(t, exec.Command("ip", "netns", "delete", m.ns))
		_ = os.RemoveAll(dir)
	})
	must(t, m.command("ip", "link", "set", "lo", "up"))
	return m
}

// plug joins two machines by a cable; with b nil the other end stays loose.
func plug(t *testing.T, a, b *machine) {
	t.Helper()
	peer := b
	if peer == nil {
		peer = a
	}
	must(t, exec.Command("ip", "link", "add", "eth0", "netns", a.ns, "type", "veth", "peer", "name", "eth1", "netns", peer.ns))
	if b != nil {
		must(t, b.command("ip", "link", "set", "eth1", "name", "eth0"))
		must(t, b.command("ip", "link", "set", "eth0", "up"))
		must(t, b.command("ip", "addr", "add", b.ip+"/24", "dev", "eth0"))
		must(t, b.command("ip", "route", "add", "default", "via", a.ip))
	} else {
		must(t, a.command("ip", "link", "set", "eth1", "up"))
	}
	must(t, a.command("ip", "link", "set", "eth0", "up"))
	must(t, a.command("ip", "addr", "add", a.ip+"/24", "dev", "eth0"))
	must(t, a.command("ip", "route", "add", "default", "dev", "eth0"))
}

// realKubectl is the machine's kubectl, or, where there is none, the one that is
// built into the binary, under a name of which the binary knows that it is kubectl.
var realKubectl = func() func(bin string) string {
	var once sync.Once
	var path string
	return func(bin string) string {
		once.Do(func() {
			var err error
			if path, err = exec.LookPath("kubectl"); err == nil {
				return
			}
			fmt.Fprintln(os.Stderr, "NOTE: no kubectl in PATH; the one built into keelson takes its place")
			path = filepath.Join(os.TempDir(), fmt.Sprintf("keelson-kubectl-%d", os.Getpid()), "kubectl")
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(bin, path)); err != nil {
				panic(err)
			}
		})
		return path
	}
}()

// command is a program on this machine. "keelson" is the binary under test, on
// the machine's folders.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	if name == "keelson" {
		name = m.bin
		switch args[0] {
		case "up", "down", "uninstall", "server", "agent", "restore":
			args = append(args, "--data-dir="+m.data, "--run-dir="+m.run)
		case "image", "upgrade":
			args = append(args, "--run-dir="+m.run)
		}
	}
	if name == "kubectl" {
		name = realKubectl(m.bin)
	}
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + m.ns, name}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.kubeconfig, "LC_ALL=C.UTF-8")
	cmd.Dir = repository
	return cmd
}

// keelson runs the binary under test, which must succeed.
func (m *machine) keelson(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, m.command("keelson", args...))
}

// kubectl runs the machine's real kubectl, which must succeed.
func (m *machine) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, m.command("kubectl", args...))
}

// try runs a command that may fail and gives its output and exit code.
func (m *machine) try(name string, args ...string) (string, int) {
	out, err := m.command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	default:
		return err.Error(), -1
	}
}

func must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// eventually polls until check passes; at the deadline it fails with the last error.
func eventually(t *testing.T, timeout time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > timeout {
			t.Fatalf("%s: not within %s: %v", what, timeout, err)
		}
		<-ticker.C
	}
}

// client speaks HTTP from within the machine, with a connection for each request.
func (m *machine) client() *http.Client {
	return &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return m.dial(ctx, network, address)
			},
		},
	}
}

// dial opens a connection in the machine's network namespace, on an OS thread
// that ends with it.
func (m *machine) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		ns, err := netns.GetFromName(m.ns)
		if err != nil {
			done <- result{nil, err}
			return
		}
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			done <- result{nil, err}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// get gives the body of a page that answers 200.
func (m *machine) get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, bytes.TrimSpace(body))
	}
	return strings.TrimSpace(string(body)), err
}
