package kit

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"keelson.dev/keelson/proto/liblog"
	"keelson.dev/keelson/proto/libmem"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// gcPercent makes the collector run when the heap has grown by half instead of
// doubling: plugins' heaps are a few megabytes, and there are many plugins.
const gcPercent = 50

// settleTime is how long after its start a plugin gives back what that has needed.
const settleTime = 20 * time.Second

// settle gives back memory that is free, and pages of the program that may not be
// used again.
func settle() {
	debug.FreeOSMemory()
	_ = libmem.ReleaseProgram() // where that cannot be, the pages stay
}

// Main is the whole main function of a plugin's program. It does not return: it ends
// the process with status 0 after Stop or SIGTERM, else with 1.
func Main(p Plugin) {
	if os.Getenv(pluginv1.CookieKey) != pluginv1.CookieValue {
		fmt.Fprintf(os.Stderr, "%s is a Keelson plugin (kind %s) and does nothing by itself: name its file in a Plugin object (docs/plugins.md)\n", p.Name, p.Kind)
		os.Exit(1)
	}
	if os.Getenv("GOGC") == "" {
		tuneGC()
	}
	time.AfterFunc(settleTime, settle)
	// go-plugin replaces os.Stderr by a pipe of its own; log lines go to the real one.
	stderr := os.Stderr
	level := &slog.LevelVar{}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(liblog.New(log))

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	handover, kernel, err := receive()
	if err != nil {
		log.Error("Plugin was not started by a Keelson kernel", "err", err)
		os.Exit(1)
	}
	if p.Generic && handover.As != nil {
		p = as(p, handover.Handover)
	}
	service := NewService(context.WithoutCancel(ctx), p, log, level, os.Exit)
	service.sockets = kernel.sockets
	go func() { <-ctx.Done(); service.shutdown() }()
	go func() {
		kernel.wait()
		log.Warn("Kernel is gone: ending")
		service.shutdown()
	}()

	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: served{service: service}.versions(),
		TLSProvider:      handover.tls,
		GRPCServer:       plugin.DefaultGRPCServer,
		Logger:           hclog.New(&hclog.LoggerOptions{Output: stderr, JSONFormat: true, Level: hclog.Warn}),
	})
	// The kernel hung up, or the handshake was not possible.
	service.shutdown()
	os.Exit(1)
}

// as is a generic program under the name that it is to have.
func as(p Plugin, h pluginv1.Handover) Plugin {
	p.Name, p.Kind, p.Rules = h.Name, h.As.Kind, h.As.Rules
	if p.Scope = Scope(h.As.Scope); p.Scope == "" {
		p.Scope = ScopeCluster
	}
	return p
}

// identity is a Handover with its use.
type identity struct{ pluginv1.Handover }

// kernel is the plugin's end of the handover socket.
type kernel struct {
	r       *bufio.Reader
	files   *fileQueue
	sockets *sockets // nil: it is a pipe, and the kernel keeps no sockets
	conn    io.Closer
}

// close hangs up; wait returns then.
func (k *kernel) close() { _ = k.conn.Close() }

// wait returns when the kernel is gone.
func (k *kernel) wait() {
	if k.sockets != nil {
		k.sockets.run(k.r, k.files)
		return
	}
	_, _ = io.Copy(io.Discard, k.r)
}

// openHandover takes the inherited descriptor, which nobody that the plugin executes may
// hold.
func openHandover(fd int) (*kernel, error) {
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil { // the wait for its end then costs no thread
		return nil, fmt.Errorf("prepare the handover socket: %w", err)
	}
	return openKernel(os.NewFile(uintptr(fd), "handover"))
}

// openKernel takes the plugin's end of the handover socket.
func openKernel(file *os.File) (*kernel, error) {
	conn, err := net.FileConn(file)
	if err != nil { // a pipe
		return &kernel{r: bufio.NewReader(file), conn: file}, nil //nolint:nilerr // it serves as well
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the handover descriptor is a socket of network %s", conn.LocalAddr().Network()), conn.Close())
	}
	_ = file.Close() // conn has a copy
	files := &fileQueue{conn: unixConn}
	return &kernel{r: bufio.NewReader(files), files: files, sockets: newSockets(unixConn), conn: unixConn}, nil
}

// receive reads the Handover, and returns what ends with the kernel.
func receive() (identity, *kernel, error) {
	var id identity
	fd, err := strconv.Atoi(os.Getenv(pluginv1.HandoverEnv))
	if err != nil || fd < 3 {
		return id, nil, fmt.Errorf("environment variable %s names no file descriptor: %q", pluginv1.HandoverEnv, os.Getenv(pluginv1.HandoverEnv))
	}
	k, err := openHandover(fd)
	if err != nil {
		return id, nil, err
	}
	for _, name := range []string{pluginv1.HandoverEnv, pluginv1.InstanceEnv} {
		_ = os.Unsetenv(name)
	}
	line, err := k.r.ReadBytes('\n')
	if err != nil {
		return id, nil, fmt.Errorf("read the handover: %w", err)
	}
	if err := json.Unmarshal(line, &id.Handover); err != nil {
		return id, nil, fmt.Errorf("decode the handover: %w", err)
	}
	return id, k, nil
}

// tls serves with the plugin's certificate and accepts the kernel alone: other
// holders of a certificate of the same CA are refused.
func (id identity) tls() (*tls.Config, error) {
	pair, err := tls.X509KeyPair([]byte(id.Certificate), []byte(id.PrivateKey))
	if err != nil {
		return nil, fmt.Errorf("load the transport certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(id.CA)) {
		return nil, errors.New("load the transport CA: no certificate in it")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
		VerifyConnection: func(state tls.ConnectionState) error {
			if leaf := state.PeerCertificates[0]; leaf.Subject.CommonName != pluginv1.KernelName {
				return fmt.Errorf("the caller %q is not the kernel", leaf.Subject)
			}
			return nil
		},
	}, nil
}

// served hangs the service into go-plugin.
type served struct {
	plugin.NetRPCUnsupportedPlugin
	service *Service
}

// versions is the service under each version of the contract: it does all of the highest
// one, and the kernel calls no more than the version that it took.
func (s served) versions() map[int]plugin.PluginSet {
	set := map[int]plugin.PluginSet{}
	for _, v := range pluginv1.ProtocolVersions() {
		set[v] = plugin.PluginSet{pluginv1.ServiceName: &s}
	}
	return set
}

// GRPCServer registers the service.
func (s *served) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	pluginv1.RegisterPluginServiceServer(server, s.service)
	return nil
}

// GRPCClient has no use in a plugin.
func (s *served) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a plugin is no client of the base contract")
}

var _ plugin.GRPCPlugin = (*served)(nil)
