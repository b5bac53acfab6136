package pluginhost

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"keelson.dev/keelson/core/pki"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// issued is what a plugin was given to show others.
type issued struct{ client, serving *pluginv1.KeyPair }

// issue makes the credentials of a plugin.
func (u *unit) issue(d Description) (issued, error) {
	cfg := &u.host.cfg
	issue := func() (KeyPair, error) { return cfg.Credentials.Client(u.name, d.Kind) }
	if u.shades {
		issue = func() (KeyPair, error) { return cfg.Shadows.Client(u.name) }
	}
	client, err := issue()
	if err != nil {
		return issued{}, fmt.Errorf("issue the client certificate of plugin %s: %w", u.name, err)
	}
	out := issued{client: pair(client)}
	if !d.ServingCertificate {
		return out, nil
	}
	serving, err := cfg.Credentials.Serving(u.name, cfg.Node.Addresses, []string{cfg.Node.Name})
	if err != nil {
		return issued{}, fmt.Errorf("issue the serving certificate of plugin %s: %w", u.name, err)
	}
	out.serving = pair(serving)
	return out, nil
}

// old says whether a certificate is to be renewed. One that cannot be read is not: a
// new one would be no better.
func old(k *pluginv1.KeyPair, now time.Time) bool {
	block, _ := pem.Decode(k.GetCertificate())
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return err == nil && pki.Old(cert, now)
}

// Renew has the credentials of all plugins looked at, and hands new ones to those whose
// certificates have less than a third of their life left. It does not wait. The kernel
// calls it now and then.
func (h *Host) Renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, u := range h.units {
		u.renew()
	}
}

// renew hands new credentials to a plugin whose own get old. An error ends the plugin.
func (s *session) renew(ctx context.Context) error {
	now := s.unit.host.cfg.Now()
	if !old(s.issued.client, now) && !old(s.issued.serving, now) {
		return nil
	}
	next, err := s.unit.issue(s.description)
	if err != nil {
		s.unit.slog.Error("Credentials of plugin were not renewed", "err", err)
		return nil
	}
	if proto.Equal(next.client, s.issued.client) && proto.Equal(next.serving, s.issued.serving) {
		return nil // there are no newer ones yet
	}
	err = call(ctx, callTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Renew(ctx, &pluginv1.RenewRequest{Client: next.client, Serving: next.serving})
		return err
	})
	switch {
	case err == nil:
		s.issued = next
		s.unit.slog.Info("Credentials of plugin are renewed")
	case ctx.Err() != nil: // asked to end, or hung up
	case status.Code(err) == codes.Unimplemented:
		s.unit.slog.Info("Plugin takes no new credentials: restarting it")
		return errOutdated
	default:
		s.unit.slog.Error("Plugin did not take new credentials", "err", status.Convert(err).Message())
	}
	return nil
}
