package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"keelson.dev/keelson/core/atomicfile"
)

// Leaf is a certificate that stays valid: each time it is asked for, it is
// issued anew if less than a third of its life remains. It may be used
// concurrently.
type Leaf struct {
	authority *Authority
	name      string
	req       Request

	mu   sync.Mutex // guards what follows
	pair KeyPair
	cert *tls.Certificate
}

// Keep loads the certificate name (files name.crt and name.key), or issues it
// and keeps it there. One that does not fit the request any more (other names,
// another CA, too old, damaged) is replaced.
func (a *Authority) Keep(name string, req Request) (*Leaf, error) {
	l := &Leaf{authority: a, name: name, req: req}
	certPEM, err := readFile(a.path(name + ".crt"))
	if err != nil && errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	keyPEM, err := readFile(a.path(name + ".key"))
	if err != nil && errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	// A leaf is never precious: whatever is wrong with it, a new one mends it.
	if certPEM != nil && keyPEM != nil {
		if cert, err := tls.X509KeyPair(certPEM, keyPEM); err == nil && l.fits(cert.Leaf) {
			l.pair, l.cert = KeyPair{Certificate: certPEM, PrivateKey: keyPEM}, &cert
		}
	}
	if _, err := l.Pair(); err != nil {
		return nil, err
	}
	return l, nil
}

// Pair returns the certificate and key, fresh enough to be used.
func (l *Leaf) Pair() (KeyPair, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.renew(); err != nil {
		return KeyPair{}, err
	}
	return l.pair, nil
}

// TLS returns the certificate in the form crypto/tls uses.
func (l *Leaf) TLS() (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.renew(); err != nil {
		return nil, err
	}
	return l.cert, nil
}

// GetCertificate is for tls.Config.GetCertificate.
func (l *Leaf) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.TLS() }

// GetClientCertificate is for tls.Config.GetClientCertificate.
func (l *Leaf) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return l.TLS()
}

// renew issues the certificate when there is none or it gets old. Called with
// mu held; writes files under it, which happens once in eight months.
func (l *Leaf) renew() error {
	if l.cert != nil && !Old(l.cert.Leaf, l.authority.now()) {
		return nil
	}
	a := l.authority
	pair, err := a.issue(a.issuer(l.req), l.req)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", l.name, err)
	}
	if err := atomicfile.Write(a.path(l.name+".key"), pair.PrivateKey, 0o600); err != nil {
		return err
	}
	if err := atomicfile.Write(a.path(l.name+".crt"), pair.Certificate, 0o600); err != nil {
		return err
	}
	l.pair, l.cert = pair, &cert
	return nil
}

// Old says whether a certificate is to be renewed: less than a third of its life is left.
func Old(cert *x509.Certificate, now time.Time) bool {
	return cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/3
}

// fits says whether a loaded certificate is what the request asks for.
func (l *Leaf) fits(cert *x509.Certificate) bool {
	if cert.CheckSignatureFrom(l.authority.issuer(l.req).cert) != nil || cert.Subject.CommonName != l.req.CommonName {
		return false
	}
	if !sameSet(cert.Subject.Organization, l.req.Organizations) || !sameSet(cert.DNSNames, l.req.DNSNames) {
		return false
	}
	want := make([]string, 0, len(l.req.Addresses))
	for _, ip := range l.req.Addresses {
		want = append(want, ip.Unmap().String())
	}
	got := make([]string, 0, len(cert.IPAddresses))
	for _, ip := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			got = append(got, addr.Unmap().String())
		}
	}
	usage := x509.ExtKeyUsageClientAuth
	if l.req.Server {
		usage = x509.ExtKeyUsageServerAuth
	}
	return sameSet(got, want) && slices.Contains(cert.ExtKeyUsage, usage)
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
