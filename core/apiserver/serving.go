package apiserver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"keelson.dev/keelson/core/pki"
)

// servingCertificate is what the API server shows. The generic server looks at
// it each minute, and when it is told.
type servingCertificate struct {
	leaf *pki.Leaf

	mu        sync.Mutex // guards listeners
	listeners []dynamiccertificates.Listener
}

var _ dynamiccertificates.CertKeyContentProvider = (*servingCertificate)(nil)

// Name implements dynamiccertificates.CertKeyContentProvider.
func (*servingCertificate) Name() string { return "keelson-apiserver" }

// AddListener implements dynamiccertificates.CertKeyContentProvider.
func (s *servingCertificate) AddListener(l dynamiccertificates.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
}

// changed has the certificate looked at.
func (s *servingCertificate) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		l.Enqueue()
	}
}

// CurrentCertKeyContent implements dynamiccertificates.CertKeyContentProvider.
func (s *servingCertificate) CurrentCertKeyContent() (cert, key []byte) {
	pair, err := s.leaf.Pair()
	if err != nil {
		return nil, nil // the generic server keeps what it has
	}
	return pair.Certificate, pair.PrivateKey
}

// keepServing makes or loads the serving certificate for all names by which
// clients call this server.
func keepServing(c *Config) (*servingCertificate, error) {
	req := pki.Request{
		CommonName: "kube-apiserver",
		Server:     true,
		DNSNames: []string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.Domain,
		},
		Addresses: []netip.Addr{
			netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback(), c.AdvertiseAddress, c.serviceAddress(),
		},
	}
	for _, san := range c.Options.Serving.SANs {
		if ip, err := netip.ParseAddr(san); err != nil {
			req.DNSNames = append(req.DNSNames, san)
		} else if !slices.Contains(req.Addresses, ip) {
			req.Addresses = append(req.Addresses, ip)
		}
	}
	if name, err := os.Hostname(); err == nil && name != "" && !slices.Contains(req.DNSNames, name) {
		req.DNSNames = append(req.DNSNames, name)
	}
	addrs, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	for _, ip := range addrs {
		if !slices.Contains(req.Addresses, ip) {
			req.Addresses = append(req.Addresses, ip)
		}
	}
	leaf, err := c.PKI.Keep("apiserver", req)
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	return &servingCertificate{leaf: leaf}, nil
}

// hostAddresses lists this machine's addresses without those of one link only.
func hostAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var ips []netip.Addr
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips, nil
}

// Renew puts new certificates in the place of those that get old: what this server
// shows to clients and to aggregated APIs. That for kubelets is looked at when a
// connection is made.
func (s *Server) Renew() error {
	if _, err := s.serving.leaf.Pair(); err != nil {
		return fmt.Errorf("renew serving certificate: %w", err)
	}
	s.serving.changed()
	if _, err := s.frontProxy.Pair(); err != nil { // the aggregator follows its file
		return fmt.Errorf("renew front proxy's certificate: %w", err)
	}
	return nil
}
