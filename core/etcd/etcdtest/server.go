package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Binary names the etcd to run.
const Binary = "KEELSON_TEST_ETCD"

// module is the etcd that go.mod has as a tool.
const module = "go.etcd.io/etcd/server/v3"

// ErrMissing says that there is no etcd on this machine.
var ErrMissing = errors.New("no etcd")

// Server is a running etcd.
type Server struct {
	// Endpoint is the URL of its client port, on a loopback address.
	Endpoint string

	binary, dir string
	name        string // of the member
	members     string // of its cluster, as --initial-cluster; empty: itself alone
	ports       [3]int // for clients, members, and health without certificates
	flags       []string
	cmd         *exec.Cmd
	log         *os.File
}

// Find returns the path of the etcd to run. It is built if need be.
func Find() (string, error) {
	if path := os.Getenv(Binary); path != "" {
		return path, nil
	}
	out, err := exec.Command("go", "tool", "-n", module).Output() //nolint:noctx // ends by itself
	if err != nil {
		return "", fmt.Errorf("%w: go tool -n %s: %w", ErrMissing, module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Start runs an etcd until the test ends. Without one on the machine the test is skipped,
// and fails where CI=true.
func Start(t testing.TB, flags ...string) *Server {
	t.Helper()
	return start(t, "http", flags...)
}

func start(t testing.TB, scheme string, flags ...string) *Server {
	t.Helper()
	s, err := run(t.TempDir(), scheme, flags...)
	check(t, err)
	t.Cleanup(s.Stop)
	return s
}

// check skips the test if err is that there is no etcd, and ends it for any other.
func check(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, ErrMissing) && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// StartTLS is Start of an etcd that shows a certificate, and wants those of clients to be of the authority in caFile.
func StartTLS(t testing.TB, certFile, keyFile, caFile string) *Server {
	t.Helper()
	return start(t, "https", "--cert-file", certFile, "--key-file", keyFile, "--client-cert-auth", "--trusted-ca-file", caFile)
}

// Run starts an etcd with its data in dir and waits until it answers. It ends with
// this process at the latest.
func Run(dir string, flags ...string) (*Server, error) { return run(dir, "http", flags...) }

func run(dir, scheme string, flags ...string) (*Server, error) {
	binary, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Server{binary: binary, dir: dir, name: "default", flags: flags}
	if err := s.choosePorts(); err != nil {
		return nil, err
	}
	s.Endpoint = scheme + "://127.0.0.1:" + strconv.Itoa(s.ports[0])
	return s, s.Restart()
}

// peer is where other members reach it.
func (s *Server) peer() string { return "http://127.0.0.1:" + strconv.Itoa(s.ports[1]) }

// choosePorts finds free ones; both are held until both are found.
func (s *Server) choosePorts() error {
	for i := range s.ports {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding does not wait
		if err != nil {
			return err
		}
		defer ln.Close()
		s.ports[i] = ln.Addr().(*net.TCPAddr).Port
	}
	return nil
}

// Restart starts it, again after Stop, with the same data and ports, and waits until it answers.
func (s *Server) Restart() error {
	if err := s.launch(); err != nil {
		return err
	}
	return s.await()
}

func (s *Server) launch() error {
	members := s.members
	if members == "" {
		members = s.name + "=" + s.peer()
	}
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	s.cmd = exec.Command(s.binary, append([]string{ //nolint:noctx // ended by Stop
		"--name", s.name, "--data-dir", filepath.Join(s.dir, "data"), "--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", s.peer(), "--initial-advertise-peer-urls", s.peer(), "--initial-cluster", members,
		"--listen-metrics-urls", s.health(), "--unsafe-no-fsync",
	}, s.flags...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return s.cmd.Start()
}

// await waits until it serves.
func (s *Server) await() error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.healthy(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Stop()
			log, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("etcd did not come up:\n%s", log)
		}
	}
}

// health is where it tells everybody how it is.
func (s *Server) health() string { return "http://127.0.0.1:" + strconv.Itoa(s.ports[2]) }

func (s *Server) healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.health()+"/health", http.NoBody)
	if err != nil {
		return false
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// Stop kills it.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = s.log.Close()
	s.cmd = nil
}
