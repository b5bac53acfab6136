package pluginverify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"keelson.dev/keelson/core/pki"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// startTimeout bounds the time from the start to the handshake line, as the host does.
const startTimeout = 30 * time.Second

// bench is where programs are tried: an authority and folders that are thrown away.
type bench struct {
	dir       string
	authority *pki.Authority
}

func newBench() (*bench, error) {
	dir, err := os.MkdirTemp("", "kv") // short: sockets have paths of 107 bytes at most
	if err != nil {
		return nil, err
	}
	authority, err := pki.Open(filepath.Join(dir, "pki"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &bench{dir, authority}, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) }

// started is a running plugin.
type started struct {
	rpc    pluginv1.PluginServiceClient
	proc   *process
	client *plugin.Client
	took   time.Duration // from the start to the handshake
}

// start starts the program as plugin name and does the handshake.
func (b *bench) start(p Program, name string) (*started, error) {
	host, err := b.authority.ClientPair(pluginv1.KernelName, nil, time.Hour)
	if err != nil {
		return nil, err
	}
	own, err := b.authority.ServerPair(name, []string{pluginv1.TransportName(name)}, nil)
	if err != nil {
		return nil, err
	}
	handover, err := json.Marshal(pluginv1.Handover{
		Name: name, CA: string(b.authority.CAPEM()), Certificate: string(own.Certificate), PrivateKey: string(own.PrivateKey),
	})
	if err != nil {
		return nil, err
	}
	clientTLS, err := b.clientTLS(host, name)
	if err != nil {
		return nil, err
	}
	s := &started{proc: &process{cmd: exec.Command(p.Path, p.Args...), handover: append(handover, '\n'), done: make(chan struct{})}}
	s.proc.cmd.Dir = b.dir
	begin := time.Now()
	s.client = plugin.NewClient(s.proc.config(clientTLS, b.dir))
	if s.rpc, err = dispense(s.client); err != nil {
		s.kill()
		return nil, s.proc.explain(err)
	}
	s.took = time.Since(begin)
	return s, nil
}

func (b *bench) clientTLS(host pki.KeyPair, name string) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(host.Certificate, host.PrivateKey)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(b.authority.CAPEM())
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: pluginv1.TransportName(name), MinVersion: tls.VersionTLS13,
	}, nil
}

func dispense(client *plugin.Client) (pluginv1.PluginServiceClient, error) {
	protocol, err := client.Client()
	if err != nil {
		const unknown = "Unrecognized remote plugin message: "
		if rest, ok := strings.CutPrefix(err.Error(), unknown); ok {
			line, _, _ := strings.Cut(rest, "\n")
			return nil, fmt.Errorf("standard output begins with %q, want the handshake 1|VERSION|unix|SOCKET|grpc| (docs/plugins.md)", line)
		}
		return nil, err
	}
	if err := protocol.Ping(); err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	raw, err := protocol.Dispense(pluginv1.ServiceName)
	if err != nil {
		return nil, err
	}
	return raw.(pluginv1.PluginServiceClient), nil
}

// kill ends the process and all that it has started, and waits for it.
func (s *started) kill() {
	_ = s.proc.Kill(context.Background())
	if s.proc.cmd.Process != nil {
		<-s.proc.done
	}
	s.client.Kill()
	s.proc.release()
}

// process is the program in the form that go-plugin wants (runner.Runner).
type process struct {
	cmd      *exec.Cmd
	handover []byte
	done     chan struct{} // closed when the process has ended

	stdout, stderr *os.File
	lifeline       *os.File
	words          lastWords
	released       sync.Once
}

var _ runner.Runner = (*process)(nil)

func (p *process) config(clientTLS *tls.Config, dir string) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: offered(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		TLSConfig:        clientTLS, SkipHostEnv: true, StartTimeout: startTimeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: dir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			p.cmd.Env = append(p.cmd.Env, cmd.Env...)
			return p, nil
		},
		Logger: hclog.NewNullLogger(), Stderr: &p.words, SyncStdout: io.Discard, SyncStderr: io.Discard,
	}
}

// offered is the base contract in each version that the kernel speaks.
func offered() map[int]plugin.PluginSet {
	set := map[int]plugin.PluginSet{}
	for _, v := range pluginv1.ProtocolVersions() {
		set[v] = plugin.PluginSet{pluginv1.ServiceName: dispensed{}}
	}
	return set
}

// Start implements runner.Runner.
func (p *process) Start(context.Context) (err error) {
	var outW, errW, giveR *os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	p.stdout, outW = pipe()
	p.stderr, errW = pipe()
	giveR, p.lifeline = pipe()
	defer func() {
		_, _, _ = outW.Close(), errW.Close(), giveR.Close() // nil files give an error, which says nothing
	}()
	if err != nil {
		return err
	}
	for _, name := range []string{"PATH", "HOME", "TZ"} {
		if v, ok := os.LookupEnv(name); ok {
			p.cmd.Env = append(p.cmd.Env, name+"="+v)
		}
	}
	p.cmd.Env = append(p.cmd.Env, pluginv1.HandoverEnv+"=3", pluginv1.InstanceEnv+"=verify")
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = outW, errW, []*os.File{giveR}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }() // ends with the process
	_, _ = p.lifeline.Write(p.handover)             // a process that has ended tells why by itself
	return nil
}

// Wait implements runner.AttachedRunner.
func (p *process) Wait(context.Context) error { <-p.done; return nil }

// Kill implements runner.AttachedRunner.
func (p *process) Kill(context.Context) error {
	if p.cmd.Process == nil {
		return nil
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	return nil
}

// Stdout implements runner.Runner.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr implements runner.Runner.
func (p *process) Stderr() io.ReadCloser { return p.stderr }

// Name implements runner.Runner.
func (p *process) Name() string { return p.cmd.Path }

// ID implements runner.AttachedRunner.
func (p *process) ID() string {
	if p.cmd.Process == nil {
		return ""
	}
	return strconv.Itoa(p.cmd.Process.Pid)
}

// Diagnose implements runner.Runner.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.AddrTranslator.
func (p *process) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements runner.AddrTranslator.
func (p *process) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

func (p *process) release() {
	p.released.Do(func() {
		for _, f := range []*os.File{p.stdout, p.stderr, p.lifeline} {
			_ = f.Close()
		}
	})
}

// explain adds to an error what the process said last.
func (p *process) explain(err error) error {
	if words := p.words.String(); words != "" {
		return fmt.Errorf("%w; it said:\n%s", err, words)
	}
	return err
}

// lastWords keeps the end of what a plugin logs.
type lastWords struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (w *lastWords) Write(b []byte) (int, error) {
	const most = 2 << 10
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf = append(w.buf, b...); len(w.buf) > most {
		w.buf = w.buf[len(w.buf)-most:]
	}
	return len(b), nil
}

// String is what is kept, without the space around it.
func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.buf))
}

// dispensed is the base contract in go-plugin's set.
type dispensed struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer has no use here.
func (dispensed) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("nothing is served here")
}

// GRPCClient is the client of the contract.
func (dispensed) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return pluginv1.NewPluginServiceClient(conn), nil
}
