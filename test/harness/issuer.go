package harness

import (
	"errors"
	"net/netip"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Issuer issues plugins' identities from a real authority, as the kernel does.
type Issuer struct{ Authority *pki.Authority }

// Client implements pluginhost.Credentials.
func (c Issuer) Client(name, _ string) (pluginhost.KeyPair, error) {
	p, err := c.Authority.ClientPair("system:plugin:"+name, []string{"system:plugins"}, 0)
	return pluginhost.KeyPair(p), err
}

// Serving implements pluginhost.Credentials.
func (c Issuer) Serving(name string, ips []netip.Addr, dns []string) (pluginhost.KeyPair, error) {
	p, err := c.Authority.ServerPair(name, dns, ips)
	return pluginhost.KeyPair(p), err
}

// Transport implements pluginhost.Credentials.
func (c Issuer) Transport(name string) (pluginhost.Transport, error) {
	host, err := c.Authority.ClientPair(pluginv1.KernelName, nil, 0)
	own, err2 := c.Authority.ServerPair(name, []string{pluginv1.TransportName(name)}, nil)
	return pluginhost.Transport{Host: pluginhost.KeyPair(host), Plugin: pluginhost.KeyPair(own), CA: c.Authority.CAPEM()}, errors.Join(err, err2)
}

var _ pluginhost.Credentials = Issuer{}
