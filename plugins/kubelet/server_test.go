package kubelet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.pem = key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func (a *authority) pair(t *testing.T, cn string, usage x509.ExtKeyUsage, expires time.Time, orgs ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: orgs}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: expires,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func (a *authority) client(t *testing.T, cn string, orgs ...string) *tls.Certificate {
	t.Helper()
	return a.clientUntil(t, x509.ExtKeyUsageClientAuth, time.Now().Add(time.Hour), cn, orgs...)
}

func (a *authority) clientUntil(t *testing.T, usage x509.ExtKeyUsage, expires time.Time, cn string, orgs ...string) *tls.Certificate {
	t.Helper()
	cert, key := a.pair(t, cn, usage, expires, orgs...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &pair
}

// servedNode is a node whose kubelet serves HTTPS.
func servedNode(t *testing.T) (n *node, ca *authority, addr string) {
	t.Helper()
	n, ca = newNode(t), newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cert, key := ca.pair(t, "node", x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour))
	n.env.API.CA, n.env.Serving = ca.pem, &kit.KeyPair{Certificate: cert, PrivateKey: key}
	n.env.Config = bytes.Replace(n.env.Config, []byte(`"port":1`), fmt.Appendf(nil, `"port":%d`, port), 1)
	n.start()
	poll(t, "the server answers", func() bool {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
	return n, ca, addr
}

func tlsConfig(ca *authority, cert *tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	cfg := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	if cert != nil { // GetClientCertificate sends it even if the server's list of CAs lacks its issuer
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func TestServerChecksClients(t *testing.T) {
	_, ca, addr := servedNode(t)
	other := newAuthority(t)
	tests := []struct {
		name string
		cert *tls.Certificate
		want int // 0: the handshake fails
	}{
		{"no certificate", nil, http.StatusUnauthorized},
		{"the API server", ca.client(t, apiServerName), http.StatusOK},
		{"an administrator", ca.client(t, "alice", "dev", mastersGroup), http.StatusOK},
		{"another user", ca.client(t, "system:plugin:proxy", "system:plugins"), http.StatusForbidden},
		{"a name that begins alike", ca.client(t, apiServerName+"x"), http.StatusForbidden},
		{"group as name", ca.client(t, mastersGroup), http.StatusForbidden},
		{"the right name of another CA", other.client(t, apiServerName, mastersGroup), 0},
		{"an old certificate", ca.clientUntil(t, x509.ExtKeyUsageClientAuth, time.Now().Add(-time.Minute), apiServerName), 0},
		{"a server's certificate", ca.clientUntil(t, x509.ExtKeyUsageServerAuth, time.Now().Add(time.Hour), apiServerName), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := &http.Transport{TLSClientConfig: tlsConfig(ca, tt.cert)}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr, Timeout: time.Minute}
			for _, path := range []string{"/healthz", "/pods", "/exec/default/p/app?command=id", "/runningpods/"} {
				resp, err := c.Get("https://" + addr + path)
				if tt.want == 0 {
					if err == nil {
						resp.Body.Close()
						t.Errorf("%s: answered with %d", path, resp.StatusCode)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				want := tt.want
				if want == http.StatusOK && strings.HasPrefix(path, "/exec") {
					want = http.StatusNotFound // there is no such pod
				}
				if resp.StatusCode != want {
					t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
				}
			}
		})
	}
}

// streamingCRI answers requests for streams with the URL of a server that echoes.
type streamingCRI struct {
	runtimeapi.RuntimeServiceClient
	base string
	last string
}

func (s *streamingCRI) Exec(_ context.Context, r *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	s.last = fmt.Sprintf("exec %v in=%v out=%v err=%v tty=%v", r.Cmd, r.Stdin, r.Stdout, r.Stderr, r.Tty)
	return &runtimeapi.ExecResponse{Url: s.base + "/exec/token"}, nil
}

func (s *streamingCRI) Attach(_ context.Context, r *runtimeapi.AttachRequest, _ ...grpc.CallOption) (*runtimeapi.AttachResponse, error) {
	s.last = fmt.Sprintf("attach in=%v out=%v err=%v tty=%v", r.Stdin, r.Stdout, r.Stderr, r.Tty)
	return &runtimeapi.AttachResponse{Url: s.base + "/attach/token"}, nil
}

func (s *streamingCRI) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	s.last = fmt.Sprintf("portforward %v", r.Port)
	return &runtimeapi.PortForwardResponse{Url: s.base + "/portforward/token"}, nil
}

// echoUpgrade takes any upgrade and echoes what comes.
func echoUpgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Path: %s\r\n\r\n", r.Header.Get("Upgrade"), r.URL.Path)
	_, _ = io.Copy(conn, buf)
}

func TestServerPassesStreamsOn(t *testing.T) {
	n := newNode(t)
	n.create(simplePod("p"))
	k, _ := n.start()
	n.await("p", "is ready", isReady)
	back := httptest.NewServer(http.HandlerFunc(echoUpgrade))
	defer back.Close()
	cri := &streamingCRI{RuntimeServiceClient: k.cri.rt, base: back.URL}
	front := &Kubelet{env: k.env, cri: &criClient{rt: cri}, workers: k.workers, log: k.log}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", front.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", front.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", front.servePortForward)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	tests := []struct{ name, path, call, at string }{
		{"exec", "/exec/default/p/app?command=sh&command=-c&input=1&output=1&error=1", "exec [sh -c] in=true out=true err=true tty=false", "/exec/token"},
		{"exec on a terminal", "/exec/default/p/app?command=sh&stdin=true&stdout=true&stderr=true&tty=true", "exec [sh] in=true out=true err=false tty=true", "/exec/token"},
		{"attach", "/attach/default/p/app?output=1", "attach in=false out=true err=false tty=false", "/attach/token"},
		{"port-forward", "/portForward/default/p?port=80&ports=81&port=x", "portforward [80 81]", "/portforward/token"},
	}
	for _, tt := range tests {
		for _, protocol := range []string{"SPDY/3.1", "websocket"} {
			t.Run(tt.name+" over "+protocol, func(t *testing.T) {
				conn, err := net.Dial("tcp", srv.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", tt.path, protocol)
				r := bufio.NewReader(conn)
				resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // what follows 101 is the connection
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != protocol || resp.Header.Get("X-Path") != tt.at {
					t.Fatalf("got %v", resp)
				}
				if cri.last != tt.call {
					t.Errorf("asked the runtime for %q, want %q", cri.last, tt.call)
				}
				if _, err := io.WriteString(conn, "ping\n"); err != nil {
					t.Fatal(err)
				}
				if line, err := r.ReadString('\n'); err != nil || line != "ping\n" {
					t.Errorf("got %q, %v back", line, err)
				}
			})
		}
	}
	for path, want := range map[string]int{"/exec/default/nope/app?command=id": 404, "/exec/default/p/nope?command=id": 404, "/attach/other/p/app": 404, "/portForward/default/nope": 404,
		"/exec/default/p/app?command=id": 500} { // the last asks for no upgrade
		resp, err := http.Post(srv.URL+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestServerLogs(t *testing.T) {
	n := newNode(t)
	n.create(simplePod("p"))
	k, _ := n.start()
	n.await("p", "is ready", isReady)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux := http.NewServeMux()
		mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
		mux.ServeHTTP(w, r)
	}))
	defer srv.Close()
	for _, c := range k.views()[0].State.Containers["app"] {
		c.LogPath = filepath.Join(t.TempDir(), "0.log") // the runtime in memory writes none
		writeLog(t, c.LogPath, logText(0, 3))
	}
	tests := []struct {
		path string
		code int
		body string
	}{
		{"/containerLogs/default/p/app", 200, plainText(0, 3)},
		{"/containerLogs/default/p/app?tailLines=1", 200, plainText(2, 3)},
		{"/containerLogs/default/p/app?limitBytes=4", 200, "line"},
		{"/containerLogs/default/p/app?stream=Stderr", 200, ""},
		{"/containerLogs/default/p/app?tailLines=-1", 400, "tailLines"},
		{"/containerLogs/default/p/app?limitBytes=0", 400, "limitBytes"},
		{"/containerLogs/default/p/app?sinceSeconds=x", 400, "sinceSeconds"},
		{"/containerLogs/default/p/app?sinceTime=x", 400, "sinceTime"},
		{"/containerLogs/default/p/app?previous=true", 400, "previous terminated container"},
		{"/containerLogs/default/p/d", 404, "not found"},
		{"/containerLogs/default/q/c", 404, "not found"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			resp, err := http.Get(srv.URL + tt.path)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.code || tt.code == 200 && string(body) != tt.body || !strings.Contains(string(body), tt.body) {
				t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
			}
		})
	}
}
