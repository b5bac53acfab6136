// Package rotate is an HTTP transport whose client certificate can be replaced
// while it is used.
package rotate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Transport is a round tripper for one client identity. After Use, requests go over
// new connections with the new certificate. Requests under way, watches among them,
// end where they are; a connection of the old certificate is closed when it has none
// left. Its methods may be called concurrently.
type Transport struct {
	roots   *x509.CertPool
	current atomic.Pointer[http.Transport]
}

var _ http.RoundTripper = (*Transport)(nil)

// idle is how long a connection without requests is kept.
const idle = 90 * time.Second

// New trusts the servers that ca (PEM) vouches for, and shows the certificate given;
// none if it is empty.
func New(ca, certificate, key []byte) (*Transport, error) {
	t := &Transport{roots: x509.NewCertPool()}
	if !t.roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("load the CA of the API: no certificate in it")
	}
	return t, t.Use(certificate, key)
}

// Use shows another certificate from now on. After an error the old one stays.
func (t *Transport) Use(certificate, key []byte) error {
	config := &tls.Config{RootCAs: t.roots, MinVersion: tls.VersionTLS12}
	if len(certificate) > 0 {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			return fmt.Errorf("load the client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	next := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 25, IdleConnTimeout: idle,
		DialContext: (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	})
	if last := t.current.Swap(next); last != nil {
		last.CloseIdleConnections()
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current.Load().RoundTrip(r)
}

// CloseIdleConnections is what http.Client calls.
func (t *Transport) CloseIdleConnections() { t.current.Load().CloseIdleConnections() }
