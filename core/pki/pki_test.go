package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string, opts ...Option) *Authority {
	t.Helper()
	a, err := Open(dir, opts...)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return a
}

func TestOpenKeepsTheAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, second := open(t, dir), open(t, dir)
	if string(first.CAPEM()) != string(second.CAPEM()) {
		t.Error("the CA changed from one Open to the next")
	}
	if !first.saKey.Equal(second.saKey) {
		t.Error("the service account key changed from one Open to the next")
	}
	if string(first.CAPEM()) == string(first.FrontProxyCAPEM()) {
		t.Error("the front-proxy CA is the cluster CA")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 {
		t.Errorf("got %d files, want 5: %v", len(entries), entries)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode().Perm())
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, want 0700", info.Mode().Perm())
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	other := open(t, t.TempDir())
	tests := map[string]struct {
		file   string
		change func(path string) error
		want   string
	}{
		"empty certificate": {"ca.crt", func(p string) error { return os.WriteFile(p, nil, 0o600) }, "ca.crt is damaged: it is empty"},
		"cut certificate":   {"ca.crt", func(p string) error { return os.Truncate(p, 100) }, "ca.crt is damaged"},
		"garbage key":       {"ca.key", func(p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, "ca.key is damaged: no PEM block"},
		"lost key":          {"ca.key", os.Remove, "ca.key is damaged: it is missing"},
		"foreign certificate": {"ca.crt", func(p string) error { return os.WriteFile(p, other.CAPEM(), 0o600) },
			"does not belong to the key"},
		"cut token key": {"sa.key", func(p string) error { return os.Truncate(p, 40) }, "sa.key is damaged"},
		"not a key": {"sa.key", func(p string) error { return os.WriteFile(p, other.CAPEM(), 0o600) },
			"not a private key"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			if err := tt.change(filepath.Join(dir, tt.file)); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestOpenMendsAnInterruptedFounding(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	if second := open(t, dir); !second.ca.key.Equal(first.ca.key) {
		t.Error("a new key was made although one was there")
	}
}

func TestOpenExpired(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := Open(dir, WithClock(func() time.Time { return time.Now().Add(11 * 365 * 24 * time.Hour) }))
	if err == nil || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("got error %v, want one that says when it expired", err)
	}
}

func TestPairsWorkTogether(t *testing.T) {
	a := open(t, t.TempDir())
	server, err := a.ServerPair("node", []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")})
	if err != nil {
		t.Fatal(err)
	}
	client, err := a.ClientPair("ann", []string{"system:masters"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	serverCert, err := tls.X509KeyPair(server.Certificate, server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	clientCert, err := tls.X509KeyPair(client.Certificate, client.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	one, two := net.Pipe()
	s := tls.Server(one, &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: a.CACertPool(), ClientAuth: tls.RequireAndVerifyClientCert})
	c := tls.Client(two, &tls.Config{Certificates: []tls.Certificate{clientCert}, RootCAs: a.CACertPool(), ServerName: "127.0.0.1"})
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatalf("client: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("server: %v", err)
	}
	peer := s.ConnectionState().PeerCertificates[0]
	if peer.Subject.CommonName != "ann" || peer.Subject.Organization[0] != "system:masters" {
		t.Errorf("server saw %v", peer.Subject)
	}
	if _, err := a.ClientPair("", nil, 0); err == nil {
		t.Error("a certificate for nobody was issued")
	}
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	a := open(t, dir, WithClock(func() time.Time { return now }))
	req := Request{CommonName: "kubernetes", DNSNames: []string{"a", "b"}, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Server: true}
	keep := func(req Request) string {
		t.Helper()
		l, err := a.Keep("apiserver", req)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := l.Pair()
		if err != nil {
			t.Fatal(err)
		}
		return string(pair.Certificate)
	}
	first := keep(req)
	if keep(req) != first {
		t.Error("a certificate that fits was replaced")
	}
	now = now.Add(LeafValidity / 2)
	if keep(req) != first {
		t.Error("a certificate with half of its life left was replaced")
	}
	now = now.Add(LeafValidity / 4)
	second := keep(req)
	if second == first {
		t.Error("a certificate with a quarter of its life left was kept")
	}
	req.DNSNames = append(req.DNSNames, "c")
	third := keep(req)
	if third == second {
		t.Error("a certificate without one of the names was kept")
	}
	if err := os.Truncate(filepath.Join(dir, "apiserver.key"), 10); err != nil {
		t.Fatal(err)
	}
	if keep(req) == third {
		t.Error("a certificate with a damaged key was kept")
	}
}

func TestLeafRotatesWhileInUse(t *testing.T) {
	now := time.Now()
	a := open(t, t.TempDir(), WithClock(func() time.Time { return now }))
	l, err := a.Keep("x", Request{CommonName: "x", Server: true})
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(LeafValidity * 9 / 10)
	second, err := l.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if first == second || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("the certificate was not renewed in use")
	}
}

func TestLeafNeverOutlivesTheCA(t *testing.T) {
	a := open(t, t.TempDir())
	pair, err := a.ClientPair("x", nil, 100*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pair.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.NotAfter.After(a.ca.cert.NotAfter) {
		t.Errorf("leaf ends %v, its CA %v", cert.NotAfter, a.ca.cert.NotAfter)
	}
}

func BenchmarkClientPair(b *testing.B) {
	a, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := a.ClientPair("x", nil, 0); err != nil {
			b.Fatal(err)
		}
	}
}
