package kernel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

func TestSigner(t *testing.T) {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	node := func(name, address string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}}
	}
	const (
		kubelet = certificatesv1.KubeAPIServerClientKubeletSignerName
		serving = certificatesv1.KubeletServingSignerName
		users   = certificatesv1.KubeAPIServerClientSignerName
	)
	client, server := certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth
	type ask struct {
		signer, cn, org string
		usage           certificatesv1.KeyUsage
		dns             string
		ip              string
		by              string // who asks; a node by default
		approved        bool
	}
	for name, c := range map[string]struct {
		ask  ask
		want string // signed, failed or pending
	}{
		"own identity":               {ask{signer: kubelet, cn: "system:node:a", org: "system:nodes", usage: client}, "signed"},
		"another node":               {ask{signer: kubelet, cn: "system:node:b", org: "system:nodes", usage: client}, "pending"},
		"another node, approved":     {ask{signer: kubelet, cn: "system:node:b", org: "system:nodes", usage: client, approved: true}, "signed"},
		"masters as a node":          {ask{signer: kubelet, cn: "system:node:a", org: "system:masters", usage: client}, "pending"},
		"masters, approved":          {ask{signer: kubelet, cn: "system:node:a", org: "system:masters", usage: client, approved: true}, "failed"},
		"a user for a node":          {ask{signer: kubelet, cn: "system:node:a", org: "system:nodes", usage: client, by: "ann"}, "pending"},
		"a client with names":        {ask{signer: kubelet, cn: "system:node:a", org: "system:nodes", usage: client, dns: "a"}, "pending"},
		"a client that serves":       {ask{signer: kubelet, cn: "system:node:a", org: "system:nodes", usage: server}, "pending"},
		"serving at its address":     {ask{signer: serving, cn: "system:node:a", org: "system:nodes", usage: server, dns: "a", ip: "192.0.2.1"}, "signed"},
		"serving at another's":       {ask{signer: serving, cn: "system:node:a", org: "system:nodes", usage: server, ip: "192.0.2.2"}, "pending"},
		"serving under any name":     {ask{signer: serving, cn: "system:node:a", org: "system:nodes", usage: server, dns: "kubernetes"}, "pending"},
		"serving at loopback":        {ask{signer: serving, cn: "system:node:c", org: "system:nodes", usage: server, ip: "127.0.0.1", by: "system:node:c"}, "pending"},
		"serving at a service":       {ask{signer: serving, cn: "system:node:d", org: "system:nodes", usage: server, ip: "10.96.0.1", by: "system:node:d"}, "pending"},
		"serving nowhere":            {ask{signer: serving, cn: "system:node:a", org: "system:nodes", usage: server, approved: true}, "failed"},
		"a plugin of each node":      {ask{signer: PluginClientSigner, cn: "system:plugin:proxy", org: "system:plugins", usage: client}, "signed"},
		"a plugin of the cluster":    {ask{signer: PluginClientSigner, cn: "system:plugin:scheduler", org: "system:plugins", usage: client}, "pending"},
		"a stranger's of each node":  {ask{signer: PluginClientSigner, cn: "system:plugin:beacon", org: "system:plugins", usage: client}, "signed"},
		"a stranger's, disabled":     {ask{signer: PluginClientSigner, cn: "system:plugin:off", org: "system:plugins", usage: client}, "pending"},
		"a stranger's of a cluster":  {ask{signer: PluginClientSigner, cn: "system:plugin:one", org: "system:plugins", usage: client}, "pending"},
		"a stranger's kubelet":       {ask{signer: PluginClientSigner, cn: "system:plugin:agent", org: "system:plugins", usage: client}, "pending"},
		"a plugin, asked by a user":  {ask{signer: PluginClientSigner, cn: "system:plugin:proxy", org: "system:plugins", usage: client, by: "ann"}, "pending"},
		"a user":                     {ask{signer: users, cn: "ann", org: "dev", usage: client, by: "ann"}, "pending"},
		"a user, approved":           {ask{signer: users, cn: "ann", org: "dev", usage: client, by: "ann", approved: true}, "signed"},
		"a user of masters":          {ask{signer: users, cn: "ann", org: "system:masters", usage: client, by: "ann", approved: true}, "failed"},
		"another signer's, approved": {ask{signer: "example.com/x", cn: "system:node:a", org: "system:nodes", usage: client, approved: true}, "pending"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.ask.cn, Organization: []string{c.ask.org}}}
			if c.ask.dns != "" {
				template.DNSNames = []string{c.ask.dns}
			}
			if c.ask.ip != "" {
				template.IPAddresses = []net.IP{net.ParseIP(c.ask.ip)}
			}
			der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
			if err != nil {
				t.Fatal(err)
			}
			by, groups := c.ask.by, []string{"system:nodes", "system:authenticated"}
			switch by {
			case "":
				by = "system:node:a"
			case "ann":
				groups = groups[1:]
			}
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: c.ask.signer, Username: by, Groups: groups,
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, c.ask.usage},
			}}
			if c.ask.approved {
				csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
			}
			api := fake.NewClientset(csr, node("a", "192.0.2.1"), node("b", "192.0.2.2"), node("c", "127.0.0.1"), node("d", "10.96.0.1"))
			s := &signer{log: slog.New(slog.DiscardHandler), client: api, pki: authority, now: time.Now,
				plugins: map[string]bool{"proxy": true, "scheduler": false}, objects: objects, services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
			if err := s.handle(t.Context(), csr); err != nil {
				t.Fatal(err)
			}
			after, err := api.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "r", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := "pending"
			if _, ended := verdict(after); ended {
				got = "failed"
			} else if len(after.Status.Certificate) > 0 {
				got = "signed"
			}
			if got != c.want {
				t.Fatalf("got %s, want %s: %+v", got, c.want, after.Status.Conditions)
			}
			if got != "signed" {
				return
			}
			block, _ := pem.Decode(after.Status.Certificate)
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil || cert.Subject.CommonName != c.ask.cn || !key.PublicKey.Equal(cert.PublicKey) {
				t.Errorf("certificate: %+v, %v", cert.Subject, err)
			}
			usage := x509.ExtKeyUsageClientAuth
			if c.ask.usage == server {
				usage = x509.ExtKeyUsageServerAuth
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: authority.CACertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRequestsAreCleanedUp(t *testing.T) {
	now := time.Now()
	request := func(name string, age time.Duration, kind certificatesv1.RequestConditionType, certificate string) *certificatesv1.CertificateSigningRequest {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))}}
		if kind != "" {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, LastUpdateTime: metav1.NewTime(now.Add(-age))}}
		}
		r.Status.Certificate = []byte(certificate)
		return r
	}
	const h = time.Hour
	api := fake.NewClientset(
		request("pending", 23*h, "", ""), request("pending-old", 25*h, "", ""),
		request("issued", h/2, certificatesv1.CertificateApproved, "x"), request("issued-old", 2*h, certificatesv1.CertificateApproved, "x"),
		request("approved", 2*h, certificatesv1.CertificateApproved, ""),
		request("denied", h/2, certificatesv1.CertificateDenied, ""), request("denied-old", 2*h, certificatesv1.CertificateDenied, ""),
	)
	(&signer{log: slog.New(slog.DiscardHandler), client: api, now: func() time.Time { return now }}).clean(t.Context())
	list, err := api.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, r := range list.Items {
		left[r.Name] = true
	}
	if len(left) != 4 || !left["pending"] || !left["issued"] || !left["approved"] || !left["denied"] {
		t.Errorf("left: %v", left)
	}
}

// pluginObjects are specs of Plugin objects by name.
type pluginObjects map[string]v1alpha1.PluginSpec

// Get implements pluginGetter.
func (o pluginObjects) Get(_ context.Context, name string) (*v1alpha1.Plugin, error) {
	spec, ok := o[name]
	if !ok {
		return nil, apierrors.NewNotFound(v1alpha1.Resource("plugins"), name)
	}
	return &v1alpha1.Plugin{Spec: spec}, nil
}

var objects = pluginObjects{
	"beacon":    {Kind: "beacon", Scope: v1alpha1.PluginScopeNode},
	"off":       {Kind: "beacon", Scope: v1alpha1.PluginScopeNode, Enabled: new(bool)},
	"one":       {Kind: "beacon", Scope: v1alpha1.PluginScopeCluster},
	"agent":     {Kind: kubeletKind, Scope: v1alpha1.PluginScopeNode},
	"scheduler": {Kind: "scheduler", Scope: v1alpha1.PluginScopeCluster},
}
