package rotate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"keelson.dev/keelson/proto/rotate"
)

// pair is a self-signed client certificate of a name.
func pair(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// TestUse: what is under way goes on with the old certificate, what is new has the new
// one.
func TestUse(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName) //nolint:errcheck // the test reads it
		if r.URL.Path == "/watch" {
			w.(http.Flusher).Flush()
			<-release
			io.WriteString(w, "!") //nolint:errcheck // the test reads it
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})

	certificate, key := pair(t, "old")
	transport, err := rotate.New(ca, certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	watch, err := client.Get(server.URL + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Body.Close() }()
	get := func() string {
		t.Helper()
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get(); got != "old" {
		t.Errorf("before: %s", got)
	}
	if err := transport.Use([]byte("no certificate"), nil); err == nil {
		t.Error("what is no certificate was taken")
	}
	if got := get(); got != "old" {
		t.Errorf("after a certificate that is none: %s", got)
	}
	certificate, key = pair(t, "new")
	if err := transport.Use(certificate, key); err != nil {
		t.Fatal(err)
	}
	if got := get(); got != "new" {
		t.Errorf("after: %s", got)
	}
	close(release)
	if body, err := io.ReadAll(watch.Body); err != nil || string(body) != "old!" {
		t.Errorf("the request under way got %q, %v", body, err)
	}
}

func TestNewRefuses(t *testing.T) {
	certificate, key := pair(t, "x")
	if _, err := rotate.New([]byte("no CA"), certificate, key); err == nil {
		t.Error("a CA that is none was taken")
	}
	if _, err := rotate.New(certificate, certificate, nil); err == nil {
		t.Error("a certificate without its key was taken")
	}
}
