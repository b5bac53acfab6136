package kernel

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
)

// TestAgentObeysServersAlone: a certificate of the cluster is not enough, and none is too
// little.
func TestAgentObeysServersAlone(t *testing.T) {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	serving, err := authority.ServerPair("node", []string{"worker"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	own, err := tls.X509KeyPair(serving.Certificate, serving.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	server := httptest.NewUnstartedServer(agentHandler(pluginhost.New(pluginhost.Config{Log: slog.New(slog.DiscardHandler), DataDir: dir, RunDir: dir})))
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: authority.CACertPool()}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()
	for _, c := range []struct {
		name, as, method, path string
		code                   int
		says                   string
	}{
		{"without a certificate", "", http.MethodPost, "/plugins/dns/restart", http.StatusUnauthorized, "only the servers of this cluster"},
		{"as a node", "system:node:b", http.MethodPost, "/plugins/dns/restart", http.StatusUnauthorized, "only the servers of this cluster"},
		{"as a server", serverName, http.MethodPost, "/plugins/dns/restart", http.StatusNotFound, `plugins.keelson.dev \"dns\" not found`},
		{"a log as a server", serverName, http.MethodGet, "/plugins/dns/log", http.StatusNotFound, "not found"},
		{"lines that are none", serverName, http.MethodGet, "/plugins/dns/log?tailLines=few", http.StatusBadRequest, `tailLines: \"few\"`},
		{"another path", serverName, http.MethodPost, "/plugins/dns/kill", http.StatusNotFound, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authority.CACertPool(), ServerName: "worker"}
			if c.as != "" {
				pair, err := authority.ClientPair(c.as, []string{"system:masters"}, 0)
				if err != nil {
					t.Fatal(err)
				}
				cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
				if err != nil {
					t.Fatal(err)
				}
				config.Certificates = []tls.Certificate{cert}
			}
			request, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != c.code || !strings.Contains(string(body), c.says) {
				t.Errorf("got %s %s, %v; want %d and %q", response.Status, body, err, c.code, c.says)
			}
		})
	}
}
