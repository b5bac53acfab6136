package plugins

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
)

// serve asks the API for each request of others, under the plugin's own certificates.
func (w *worker) serve(ctx context.Context) error {
	client, err := rest.HTTPClientFor(w.env.RESTConfig)
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		TLSConfig: &tls.Config{GetCertificate: w.env.GetCertificate, MinVersion: tls.VersionTLS12}, ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, w.env.API.Server, nil)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadGateway)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			_, _ = io.Copy(rw, resp.Body)
		}),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := w.write("address", []byte(listener.Addr().String())); err != nil {
		return err
	}
	w.env.Health.SetReady()
	_ = server.ServeTLS(listener, "", "")
	return nil
}

// TestRenew: with the clock moved by eleven months, and again by thirteen, a plugin that
// goes on running shows the API and its own callers new certificates.
func TestRenew(t *testing.T) {
	var moved atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(moved.Load())) }
	authority, err := pki.Open(t.TempDir(), pki.WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s until %s", r.TLS.PeerCertificates[0].Subject.CommonName, r.TLS.PeerCertificates[0].NotAfter.Format(time.DateOnly))
	}))
	// The plugin looks at it by the machine's clock, so it has to be good now and then.
	leaf, err := authority.Keep("api", pki.Request{CommonName: "api", Server: true, DNSNames: []string{"localhost"}, Validity: 5 * pki.LeafValidity})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := leaf.TLS()
	if err != nil {
		t.Fatal(err)
	}
	api.TLS = &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.CACertPool(), Time: clock, Certificates: []tls.Certificate{*shown},
	}
	api.StartTLS()
	defer api.Close()
	_, port, _ := net.SplitHostPort(api.Listener.Addr().String())
	creds := issuer{Authority: authority}
	h := start(t, func(c *pluginhost.Config) {
		c.Credentials, c.APIServer, c.APICA, c.Now = creds, "https://localhost:"+port, authority.CAPEM(), clock
	})
	h.ensure(t, worker1("renew"))
	before := h.wait(t, "worker", pluginhost.PhaseRunning)
	address, err := os.ReadFile(filepath.Join(h.dir, "d/plugins/worker/address"))
	if err != nil {
		t.Fatal(err)
	}
	// asked is what the API saw, and until when the plugin's own certificate is good.
	asked := func() string {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, //nolint:gosec // verified below, by the test's clock
			VerifyConnection: func(s tls.ConnectionState) error {
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: authority.CACertPool(), CurrentTime: clock()})
				return err
			},
		}}}
		resp, err := client.Get("https://" + string(address))
		if err != nil {
			return err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return string(body) + " serving until " + resp.TLS.PeerCertificates[0].NotAfter.Format(time.DateOnly)
	}
	until := func() string {
		end := clock().Add(pki.LeafValidity).UTC().Format(time.DateOnly)
		return "system:plugin:worker until " + end + " serving until " + end
	}
	if got := asked(); got != until() {
		t.Fatalf("got %s, want %s", got, until())
	}
	const month = 30 * 24 * time.Hour
	moved.Store(int64(month))
	h.Renew()
	if got := asked(); got == until() || !strings.Contains(got, "system:plugin:worker") {
		t.Errorf("after a month: got %s, want the certificates of before", got)
	}
	for _, months := range []int64{11, 11 + 13} {
		moved.Store(months * int64(month)) // the second time they have ended already, as after a long sleep
		h.Renew()
		poll(t, fmt.Sprintf("new certificates after %d months", months), func() bool { return asked() == until() })
	}
	if s, _ := h.Status("worker"); s.PID != before.PID || s.Restarts != 0 {
		t.Errorf("the plugin was restarted: %+v", s)
	}
}
