package etcd

import (
	"context"
	"crypto/tls"
	"net/url"
	"time"
)

// probeTime is how long an etcd has to say that it does not like a certificate.
const probeTime = 3 * time.Second

// refusal is the error of a TLS connection that one of the servers, or this one, ends for a certificate's sake; nil: there is none.
//
// gRPC cannot be relied on to tell. In TLS 1.3 the client is ready before the server has looked at its certificate, and writes; when the
// server's alert comes in after that connection has been reset, it is lost (RFC 8446). Here nothing
// is written, so nothing is reset.
func refusal(ctx context.Context, servers []string, config *tls.Config) error {
	if config == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	for _, server := range servers {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" {
			continue
		}
		if err := probe(ctx, u.Host, config); err != nil && final(err) {
			return err
		}
	}
	return nil
}

// probe connects and waits for the first byte: an etcd that takes the certificate sends its settings at once.
func probe(ctx context.Context, host string, config *tls.Config) error {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
