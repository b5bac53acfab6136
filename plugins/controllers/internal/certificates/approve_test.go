package certificates

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestKubeletClient(t *testing.T) {
	usual := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	subject := func(name string, orgs ...string) x509.CertificateRequest {
		return x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: orgs}}
	}
	addressed := subject("system:node:n1", "system:nodes")
	addressed.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)}
	named := subject("system:node:n1", "system:nodes")
	named.DNSNames = []string{"n1"}
	for _, tt := range []struct {
		name    string
		request x509.CertificateRequest
		usages  []certificatesv1.KeyUsage
		good    bool
	}{
		{"good", subject("system:node:n1", "system:nodes"), usual, true},
		{"with key encipherment", subject("system:node:n1", "system:nodes"), append(usual, certificatesv1.UsageKeyEncipherment), true},
		{"of masters", subject("system:node:n1", "system:masters"), usual, false},
		{"of masters too", subject("system:node:n1", "system:nodes", "system:masters"), usual, false},
		{"not a node", subject("admin", "system:nodes"), usual, false},
		{"no name", subject("system:node:", "system:nodes"), usual, false},
		{"an address", addressed, usual, false},
		{"a name", named, usual, false},
		{"to serve", subject("system:node:n1", "system:nodes"), append(usual, certificatesv1.UsageServerAuth), false},
		{"not as a client", subject("system:node:n1", "system:nodes"), usual[:1], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := kubeletClient(&tt.request, tt.usages); (err == nil) != tt.good {
				t.Errorf("got %v", err)
			}
		})
	}
}
