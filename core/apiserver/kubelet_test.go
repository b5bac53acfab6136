package apiserver

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/pki"
)

// fakeKubelet answers like a kubelet to those who show a certificate of the
// cluster: with the path it was asked for and whom it saw.
func fakeKubelet(t *testing.T, authority *pki.Authority, handler http.Handler) netip.AddrPort {
	t.Helper()
	pair, err := authority.ServerPair("system:plugin:kubelet", nil, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientCAs: authority.CACertPool(), ClientAuth: tls.RequireAndVerifyClientCert,
	}}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

func whoAndWhere(w http.ResponseWriter, r *http.Request) {
	s := r.TLS.PeerCertificates[0].Subject
	fmt.Fprintf(w, "%s %s %s?%s", s.CommonName, s.Organization[0], r.URL.Path, r.URL.RawQuery)
}

func nodeAt(addr netip.AddrPort) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: addr.Addr().String()}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(addr.Port())
	return n
}

func TestKubeletConnection(t *testing.T) {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKubelets(authority)
	if err != nil {
		t.Fatal(err)
	}
	node := nodeAt(fakeKubelet(t, authority, http.HandlerFunc(whoAndWhere)))
	u, transport, config, err := k.ConnectionInfo(t.Context(), node)
	if err != nil || config == nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Get(u.String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := "kube-apiserver-kubelet-client system:masters /healthz?"; err != nil || string(body) != want {
		t.Errorf("the kubelet saw %q, want %q (%v)", body, want, err)
	}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = 0
	if u, _, _, err = k.ConnectionInfo(t.Context(), node); err != nil || u.Port() != "10250" {
		t.Errorf("got %v, %v, want the default port", u, err)
	}
	node.Status.Addresses = node.Status.Addresses[:1]
	if _, _, _, err = k.ConnectionInfo(t.Context(), node); err == nil || !strings.Contains(err.Error(), "node n has no address of type InternalIP") {
		t.Errorf("node without an address: %v", err)
	}
}

// TestLogGoesThrough asks for a pod's log over the API and gets what the node's
// kubelet says.
func TestLogGoesThrough(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	node := nodeAt(fakeKubelet(t, h.pki, http.HandlerFunc(whoAndWhere)))
	status := node.Status
	node, err := h.admin.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status = status
	if _, err := h.admin.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := h.admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	lines := int64(7)
	got, err := h.admin.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
	if err != nil || !strings.Contains(string(got), "/containerLogs/default/p/c?tailLines=7") {
		t.Errorf("got %q, %v", got, err)
	}
}
