package plugins

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"keelson.dev/keelson/core/pluginhost"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// launch starts a plugin as doc.go of the contract says, without the plugin host: a
// second reading of the contract, for its suite.
func launch(t testing.TB, creds issuer, name string, cmd *exec.Cmd) plugintest.Subject {
	t.Helper()
	transport, err := creds.Transport(name)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	handover, err := json.Marshal(pluginv1.Handover{
		Name: name, CA: string(transport.CA),
		Certificate: string(transport.Plugin.Certificate), PrivateKey: string(transport.Plugin.PrivateKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Write(append(handover, '\n')); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Env = []string{pluginv1.HandoverEnv + "=3"}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginv1.CookieKey, MagicCookieValue: pluginv1.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{pluginv1.Version2: {pluginv1.ServiceName: contract{}}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		TLSConfig:        clientTLS(t, transport.Host, transport.CA, name),
		Cmd:              cmd, SkipHostEnv: true, Logger: hclog.NewNullLogger(),
	})
	t.Cleanup(func() { client.Kill(); _ = ours.Close() })
	protocol, err := client.Client()
	_ = theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := protocol.Dispense(pluginv1.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan int, 1)
	ended := make(chan struct{})
	t.Cleanup(func() { client.Kill(); <-ended })
	go func() { // ends with the process, which the cleanup above ends at the latest
		defer close(ended)
		for !client.Exited() {
			select {
			case <-t.Context().Done():
				return
			default:
				waitABit()
			}
		}
		exited <- cmd.ProcessState.ExitCode()
	}()
	return plugintest.Subject{Client: raw.(pluginv1.PluginServiceClient), Exited: exited}
}

func clientTLS(t testing.TB, own pluginhost.KeyPair, ca []byte, name string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cfg := &tls.Config{RootCAs: pool, ServerName: pluginv1.TransportName(name), MinVersion: tls.VersionTLS13}
	if own.Certificate != nil {
		pair, err := tls.X509KeyPair(own.Certificate, own.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// contract is the base contract in go-plugin's set.
type contract struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCServer has no use here.
func (contract) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("no server here")
}

// GRPCClient is the client.
func (contract) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return pluginv1.NewPluginServiceClient(conn), nil
}
