package pluginhost

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// startTimeout bounds the time from the start to the handshake line.
const startTimeout = 30 * time.Second

// instanceDigits of an instance are in the names of its cgroup and record.
const instanceDigits = 10

// passedOn are the variables of the host's environment that plugins get.
var passedOn = []string{
	"PATH", "HOME", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

// command finds the program and checks it.
func (u *unit) command(spec Spec) (Command, error) {
	if spec.BuiltIn {
		if spec.Program != "" {
			if cmd, ok := u.host.cfg.BuiltIn(spec.Program); ok {
				cmd.Args = append(append([]string(nil), cmd.Args...), spec.Args...)
				return cmd, nil
			}
			return Command{}, final(fmt.Errorf("spec.source.program: there is no built-in program %q", spec.Program))
		}
		cmd, ok := u.host.cfg.BuiltIn(spec.Name)
		if !ok {
			return Command{}, final(fmt.Errorf("spec.source.builtIn: there is no built-in plugin %q", spec.Name))
		}
		cmd.Args = append(append([]string(nil), cmd.Args...), spec.Args...)
		return cmd, nil
	}
	if !filepath.IsAbs(spec.Path) {
		return Command{}, final(fmt.Errorf("spec.source.path: %q is not an absolute path", spec.Path))
	}
	if err := inDirs(spec.Path, u.host.cfg.PluginDirs); err != nil {
		return Command{}, notYet(err)
	}
	if err := checkProgram(spec.Path, spec.SHA256); err != nil {
		return Command{}, notYet(err)
	}
	return Command{Path: spec.Path, Args: spec.Args}, nil
}

// inDirs refuses a program that lies in none of the plugin folders, and folders that
// others can write to. No folders: anything goes.
func inDirs(path string, dirs []string) error {
	if len(dirs) == 0 {
		return nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("spec.source.path: %w", err)
	}
	for _, dir := range dirs {
		realDir, err := filepath.EvalSymlinks(dir)
		if err != nil || !strings.HasPrefix(real, strings.TrimSuffix(realDir, "/")+"/") {
			continue
		}
		for at := filepath.Dir(real); ; at = filepath.Dir(at) {
			info, err := os.Stat(at)
			if err != nil {
				return fmt.Errorf("spec.source.path: %w", err)
			}
			if info.Mode()&0o022 != 0 {
				return fmt.Errorf("spec.source.path: the folder %s can be written by others than its owner (mode %04o): chmod go-w", at, info.Mode().Perm())
			}
			if at == realDir {
				return nil
			}
		}
	}
	return fmt.Errorf("spec.source.path: %s lies in no plugin folder (%s; --plugin-dir): copy it there, or name its folder", path, strings.Join(dirs, ", "))
}

// checkProgram refuses a file that cannot be what an administrator meant: not there,
// not executable, writable by others, or of another checksum.
func checkProgram(path, sum string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("spec.source.path: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("spec.source.path: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("spec.source.path: %s is not a file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("spec.source.path: %s is not executable (mode %04o)", path, info.Mode().Perm())
	case info.Mode()&0o022 != 0:
		return fmt.Errorf("spec.source.path: %s can be written by others than its owner (mode %04o): chmod go-w", path, info.Mode().Perm())
	case sum == "":
		return nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return fmt.Errorf("spec.source.path: %w", err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); !strings.EqualFold(got, sum) {
		return fmt.Errorf("spec.source.sha256: %s has checksum %s, want %s", path, got, strings.ToLower(sum))
	}
	return nil
}

// newProcess prepares the process; nothing is started.
func (u *unit) newProcess(spec Spec, cmd Command, t Transport) *process {
	instance := strings.ToLower(rand.Text())
	full := u.folder + "." + instance[:instanceDigits]
	p := &process{
		cmd: exec.Command(cmd.Path, cmd.Args...), forker: u.host.forker, cgroup: u.host.cgroups.of(full), limits: spec.Limits,
		record: u.host.recordOf(full), instance: instance, done: make(chan struct{}), sockets: u.sockets, transport: t,
		handover: pluginv1.Handover{
			Name: u.name, CA: string(t.CA),
			Certificate: string(t.Plugin.Certificate), PrivateKey: string(t.Plugin.PrivateKey),
		},
	}
	if spec.Program != "" {
		p.handover.As = &pluginv1.As{Kind: spec.Kind, Scope: spec.Scope, Rules: spec.Rules}
	}
	for _, name := range passedOn {
		if v, ok := os.LookupEnv(name); ok {
			p.cmd.Env = append(p.cmd.Env, name+"="+v)
		}
	}
	p.cmd.Env = append(p.cmd.Env, u.host.cfg.Env...)
	p.cmd.Dir = u.host.runDir(u.folder)
	return p
}

func (u *unit) clientConfig(p *process, clientTLS *tls.Config, log io.Writer) *plugin.ClientConfig {
	return &plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: offered(),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		TLSConfig:        clientTLS,
		SkipHostEnv:      true,
		StartTimeout:     startTimeout,
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: u.host.hostDir()},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			p.socketDir = dir
			p.cmd.Env = append(p.cmd.Env, cmd.Env...)
			return p, nil
		},
		Logger: hclog.NewNullLogger(),
		Stderr: io.Discard, SyncStdout: log, SyncStderr: log,
	}
}

// handshakeError puts go-plugin's words for a program that is no plugin into ours.
func handshakeError(err error) error {
	if refused := versionError(err); refused != nil {
		return refused
	}
	const unknown = "Unrecognized remote plugin message: "
	rest, ok := strings.CutPrefix(err.Error(), unknown)
	if !ok {
		return err
	}
	const wanted = "the handshake of a Keelson plugin (docs/plugins.md)"
	if line, _, _ := strings.Cut(rest, "\n"); line != "" {
		return fmt.Errorf("the program printed %q in place of %s", line, wanted)
	}
	return errors.New("the program ended without " + wanted)
}

// client is the host's side of the connection: it trusts one name only.
func (t Transport) client(name string) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(t.Host.Certificate, t.Host.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("load the kernel's transport certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(t.CA) {
		return nil, errors.New("load the transport CA: no certificate in it")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, RootCAs: pool,
		ServerName: pluginv1.TransportName(name), MinVersion: tls.VersionTLS13,
	}, nil
}

// dispensed is the base contract in go-plugin's set.
type dispensed struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer has no use in the host.
func (dispensed) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("the host serves no plugin contract")
}

// GRPCClient is the client of the contract.
func (dispensed) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return pluginv1.NewPluginServiceClient(conn), nil
}

var _ plugin.GRPCPlugin = dispensed{}
