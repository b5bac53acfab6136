package auth

import (
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
)

const (
	// certificateTTL is how long a verified certificate is trusted unseen.
	certificateTTL = time.Minute
	// maxCertificates bounds what is remembered, about one per connection.
	maxCertificates = 1024
)

// ClientCertificates authenticates requests by the client certificate of their
// connection. Verifying a chain is dearer than serving a small request, and all
// requests of a connection carry the same parsed certificate, so the answer is
// remembered by its address.
type ClientCertificates struct {
	verify authenticator.Request
	now    func() time.Time

	mu    sync.RWMutex
	known map[*x509.Certificate]verified // guarded by mu
}

type verified struct {
	response *authenticator.Response
	until    time.Time
}

var _ authenticator.Request = (*ClientCertificates)(nil)

// NewClientCertificates trusts the certificates that the roots of options
// signed, which may change. A nil clock is the machine's.
func NewClientCertificates(options x509request.VerifyOptionFunc, now func() time.Time) *ClientCertificates {
	c := &ClientCertificates{now: now, known: map[*x509.Certificate]verified{}}
	if now == nil {
		c.now = time.Now
	}
	c.verify = x509request.NewDynamic(func() (x509.VerifyOptions, bool) {
		o, ok := options()
		if now != nil {
			o.CurrentTime = now()
		}
		return o, ok
	}, x509request.CommonNameUserConversion)
	return c
}

// AuthenticateRequest implements authenticator.Request.
func (c *ClientCertificates) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	cert, now := req.TLS.PeerCertificates[0], c.now()
	c.mu.RLock()
	v, ok := c.known[cert]
	c.mu.RUnlock()
	if ok && now.Before(v.until) {
		return v.response, true, nil
	}
	response, ok, err := c.verify.AuthenticateRequest(req)
	if !ok || err != nil {
		return nil, false, err
	}
	until := now.Add(certificateTTL)
	if cert.NotAfter.Before(until) {
		until = cert.NotAfter
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCertificates {
		clear(c.known)
	}
	c.known[cert] = verified{response: response, until: until}
	return response, true, nil
}
