package plugins

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/plugins/kit"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// TestProtocolVersions: programs that were built against other versions of the contract,
// each a process of its own, with the host as it is.
func TestProtocolVersions(t *testing.T) {
	for _, c := range []struct {
		name, versions string
		want           int    // the version in use
		refused        string // or why it is not started
	}{
		{name: "one", versions: "1", want: 1},
		{name: "two", versions: "2", want: 2},
		{name: "both", versions: "1,2", want: 2},
		{name: "both-and-later", versions: "1,2,3", want: 2},
		{name: "later", versions: "99", refused: "the program speaks version 99 of the plugin contract, this kernel 1 and 2: build it against another release of the kit"},
		{name: "later-two", versions: "98,99", refused: "the program speaks version 98 of the plugin contract, this kernel 1 and 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start(t, func(cfg *pluginhost.Config) {
				cfg.BuiltIn = func(name string) (pluginhost.Command, bool) {
					return pluginhost.Command{Path: os.Args[0], Args: []string{"plugin-versions", c.versions, name}}, true
				}
			})
			h.ensure(t, pluginhost.Spec{Name: c.name, BuiltIn: true, Enabled: true})
			if c.refused != "" {
				s := h.wait(t, c.name, pluginhost.PhaseFailed)
				if !strings.HasPrefix(s.LastError, c.refused) || s.Restarts != 0 || s.PID != 0 {
					t.Errorf("status: got %+v, want %q and no second start", s, c.refused)
				}
				return
			}
			if s := h.wait(t, c.name, pluginhost.PhaseRunning); s.Protocol != c.want {
				t.Errorf("protocol: got %d, want %d", s.Protocol, c.want)
			}
		})
	}
}

// versionsMain is a plugin as go-plugin alone would make it, that speaks the versions
// listed and no other.
func versionsMain(list, name string) error {
	fd, err := strconv.Atoi(os.Getenv(pluginv1.HandoverEnv))
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(os.NewFile(uintptr(fd), "handover")).ReadBytes('\n')
	if err != nil {
		return err
	}
	var handover pluginv1.Handover
	if err := json.Unmarshal(line, &handover); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair([]byte(handover.Certificate), []byte(handover.PrivateKey))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(handover.CA))
	set := map[int]plugin.PluginSet{}
	for v := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(v)
		if err != nil {
			return err
		}
		set[n] = plugin.PluginSet{pluginv1.ServiceName: versioned{version: n, name: name}}
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: set, GRPCServer: plugin.DefaultGRPCServer,
		TLSProvider: func() (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}, nil
		},
	})
	return nil
}

// versioned serves the contract in one version.
type versioned struct {
	plugin.NetRPCUnsupportedPlugin
	version int
	name    string
}

// GRPCServer implements plugin.GRPCPlugin.
func (v versioned) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	p := kit.Plugin{
		Name: v.name, Kind: "example", Version: "test", Description: "Speaks version " + strconv.Itoa(v.version) + ".", Scope: kit.ScopeNode,
		New: func(env *kit.Env) (kit.Runner, error) {
			return kit.RunnerFunc(func(ctx context.Context) error {
				env.Health.SetReady()
				<-ctx.Done()
				return nil
			}), nil
		},
	}
	level := &slog.LevelVar{}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	service := kit.NewService(context.Background(), p, log, level, os.Exit)
	if v.version == pluginv1.Version1 {
		pluginv1.RegisterPluginServiceServer(server, version1{inner: service})
		return nil
	}
	pluginv1.RegisterPluginServiceServer(server, service)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin.
func (versioned) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("no client here")
}

// version1 has the methods of version 1 and answers others with UNIMPLEMENTED.
type version1 struct {
	pluginv1.UnimplementedPluginServiceServer
	inner pluginv1.PluginServiceServer
}

// Describe implements the contract.
func (s version1) Describe(ctx context.Context, r *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return s.inner.Describe(ctx, r)
}

// Configure implements the contract.
func (s version1) Configure(ctx context.Context, r *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	return s.inner.Configure(ctx, r)
}

// Activate implements the contract.
func (s version1) Activate(ctx context.Context, r *pluginv1.ActivateRequest) (*pluginv1.ActivateResponse, error) {
	return s.inner.Activate(ctx, r)
}

// Deactivate implements the contract.
func (s version1) Deactivate(ctx context.Context, r *pluginv1.DeactivateRequest) (*pluginv1.DeactivateResponse, error) {
	return s.inner.Deactivate(ctx, r)
}

// Health implements the contract.
func (s version1) Health(r *pluginv1.HealthRequest, stream grpc.ServerStreamingServer[pluginv1.HealthResponse]) error {
	return s.inner.Health(r, stream)
}

// Renew implements the contract.
func (s version1) Renew(ctx context.Context, r *pluginv1.RenewRequest) (*pluginv1.RenewResponse, error) {
	return s.inner.Renew(ctx, r)
}

// Drain implements the contract.
func (s version1) Drain(ctx context.Context, r *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	return s.inner.Drain(ctx, r)
}

// Stop implements the contract.
func (s version1) Stop(ctx context.Context, r *pluginv1.StopRequest) (*pluginv1.StopResponse, error) {
	return s.inner.Stop(ctx, r)
}
