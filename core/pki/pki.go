package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"path/filepath"
	"time"

	"keelson.dev/keelson/core/atomicfile"
)

const (
	// caValidity outlives the machines; replacing a CA is an act of the operator.
	caValidity = 10 * 365 * 24 * time.Hour
	// LeafValidity is how long a certificate is good for unless asked otherwise.
	LeafValidity = 365 * 24 * time.Hour
	// backdate forgives clocks of other machines that are behind.
	backdate = 5 * time.Minute
)

// KeyPair is a certificate (with its issuer behind it, where that helps a
// verifier) and its private key, both PEM.
type KeyPair struct {
	Certificate []byte
	PrivateKey  []byte
}

// Authority issues certificates. Its methods may be called concurrently.
type Authority struct {
	dir        string
	now        func() time.Time
	ca         authority
	frontProxy authority
	saKey      *ecdsa.PrivateKey
}

// authority is one CA: immutable once loaded.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Option changes how an Authority works.
type Option func(*Authority)

// WithClock gives the Authority another clock than the machine's.
func WithClock(now func() time.Time) Option { return func(a *Authority) { a.now = now } }

// Open loads the authority in dir, or founds it there when dir is empty or
// missing.
func Open(dir string, opts ...Option) (*Authority, error) {
	a := &Authority{dir: dir, now: time.Now}
	for _, o := range opts {
		o(a)
	}
	err := openDir(dir)
	if err == nil {
		a.ca, err = a.loadCA("ca", "keelson-ca")
	}
	if err == nil {
		a.frontProxy, err = a.loadCA("front-proxy-ca", "keelson-front-proxy-ca")
	}
	if err == nil {
		a.saKey, _, err = loadKey(a.path("sa.key"))
	}
	if err != nil {
		return nil, fmt.Errorf("open certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

func (a *Authority) path(name string) string { return filepath.Join(a.dir, name) }

// Files are where Keep keeps the certificate name and its key.
func (a *Authority) Files(name string) (cert, key string) {
	return a.path(name + ".crt"), a.path(name + ".key")
}

// Dir is where the authority keeps its files.
func (a *Authority) Dir() string { return a.dir }

// CAPEM is the cluster CA's certificate.
func (a *Authority) CAPEM() []byte { return append([]byte(nil), a.ca.pem...) }

// CACertPool holds the cluster CA alone.
func (a *Authority) CACertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca.cert)
	return pool
}

// FrontProxyCAPEM is the certificate of the CA that signs what the API server
// shows to aggregated APIs.
func (a *Authority) FrontProxyCAPEM() []byte { return append([]byte(nil), a.frontProxy.pem...) }

// ServiceAccountKey signs service account tokens. It is an *ecdsa.PrivateKey on
// P-256.
func (a *Authority) ServiceAccountKey() crypto.Signer { return a.saKey }

// ServiceAccountPublicPEM is the public half of ServiceAccountKey.
func (a *Authority) ServiceAccountPublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(a.saKey.Public())
	if err != nil {
		return nil, fmt.Errorf("encode service account key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockPublicKey, Bytes: der}), nil
}

// ClientPair issues a client certificate for user cn in groups orgs. A validity
// of zero means LeafValidity.
func (a *Authority) ClientPair(cn string, orgs []string, validity time.Duration) (KeyPair, error) {
	return a.issue(a.ca, Request{CommonName: cn, Organizations: orgs, Validity: validity})
}

// ServerPair issues a serving certificate for the names and addresses given.
func (a *Authority) ServerPair(cn string, dnsNames []string, ips []netip.Addr) (KeyPair, error) {
	return a.issue(a.ca, Request{CommonName: cn, DNSNames: dnsNames, Addresses: ips, Server: true})
}

// FrontProxyPair issues a client certificate signed by the front-proxy CA.
func (a *Authority) FrontProxyPair(cn string) (KeyPair, error) {
	return a.issue(a.frontProxy, Request{CommonName: cn})
}

// loadCA loads or founds the CA whose files are name.crt and name.key.
func (a *Authority) loadCA(name, cn string) (authority, error) {
	keyPath, certPath := a.path(name+".key"), a.path(name+".crt")
	data, err := readFile(certPath)
	if err != nil {
		return authority{}, err
	}
	if data == nil {
		return a.foundCA(keyPath, certPath, cn)
	}
	keyData, err := readFile(keyPath)
	if err != nil {
		return authority{}, err
	}
	if keyData == nil {
		return authority{}, damaged(keyPath, "it is missing while "+filepath.Base(certPath)+" is there")
	}
	key, err := parseKey(keyPath, keyData)
	if err != nil {
		return authority{}, err
	}
	cert, err := parseCertificate(certPath, data)
	if err != nil {
		return authority{}, err
	}
	switch now := a.now(); {
	case !key.PublicKey.Equal(cert.PublicKey):
		return authority{}, damaged(certPath, "it does not belong to the key in "+filepath.Base(keyPath))
	case !cert.IsCA:
		return authority{}, damaged(certPath, "its certificate is not that of an authority")
	case now.After(cert.NotAfter):
		return authority{}, fmt.Errorf("%s expired on %s (this machine's clock says %s): replace it and its key, "+
			"or set the clock", certPath, cert.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	return authority{cert: cert, key: key, pem: encodeCertificate(cert.Raw)}, nil
}

// foundCA makes what is missing of a CA. The key may be there already.
func (a *Authority) foundCA(keyPath, certPath, cn string) (authority, error) {
	key, _, err := loadKey(keyPath)
	if err != nil {
		return authority{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return authority{}, err
	}
	now := a.now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: cn},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, fmt.Errorf("sign %s: %w", cn, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("sign %s: %w", cn, err)
	}
	ca := authority{cert: cert, key: key, pem: encodeCertificate(der)}
	return ca, atomicfile.Write(certPath, ca.pem, 0o600)
}

// Request says what a certificate is for.
type Request struct {
	CommonName    string
	Organizations []string // groups of a client
	DNSNames      []string
	Addresses     []netip.Addr
	Server        bool          // for serving; otherwise for a client
	FrontProxy    bool          // signed by the front-proxy CA; heeded by Keep
	Validity      time.Duration // zero: LeafValidity
}

// issuer is the CA that signs what is requested.
func (a *Authority) issuer(req Request) authority {
	if req.FrontProxy {
		return a.frontProxy
	}
	return a.ca
}

func (a *Authority) issue(ca authority, req Request) (KeyPair, error) {
	if req.CommonName == "" {
		return KeyPair{}, errors.New("issue certificate: no common name given")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("issue certificate for %s: %w", req.CommonName, err)
	}
	cert, err := a.sign(ca, key.Public(), req)
	if err != nil {
		return KeyPair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return KeyPair{}, err
	}
	return KeyPair{Certificate: cert, PrivateKey: keyPEM}, nil
}

// Sign issues a certificate of the cluster's CA for somebody else's key, in PEM.
func (a *Authority) Sign(public crypto.PublicKey, req Request) ([]byte, error) {
	if req.CommonName == "" {
		return nil, errors.New("issue certificate: no common name given")
	}
	return a.sign(a.ca, public, req)
}

func (a *Authority) sign(ca authority, public crypto.PublicKey, req Request) ([]byte, error) {
	template, err := a.template(ca, req)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", req.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", req.CommonName, err)
	}
	return encodeCertificate(der), nil
}

func (a *Authority) template(ca authority, req Request) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	validity := req.Validity
	if validity <= 0 {
		validity = LeafValidity
	}
	now := a.now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: req.CommonName, Organization: req.Organizations},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              req.DNSNames,
	}
	if req.Server {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter // a leaf that outlives its CA only looks valid
	}
	for _, ip := range req.Addresses {
		t.IPAddresses = append(t.IPAddresses, ip.Unmap().AsSlice())
	}
	return t, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return serial, nil
}
