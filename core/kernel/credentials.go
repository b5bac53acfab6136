package kernel

import (
	"net/netip"

	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// pluginsGroup is the group of all plugins' identities.
const pluginsGroup = "system:plugins"

// kubeletKind is the kind of plugin that acts as its node.
const kubeletKind = "kubelet"

// authorityCredentials issues plugins' identities from the cluster's CA.
type authorityCredentials struct {
	pki  *pki.Authority
	node string
}

var _ pluginhost.Credentials = authorityCredentials{}

// Client is the identity system:plugin:NAME; a kubelet is its node.
func (c authorityCredentials) Client(name, kind string) (pluginhost.KeyPair, error) {
	if kind == kubeletKind {
		return nodePair(c.pki, c.node)
	}
	pair, err := c.pki.ClientPair("system:plugin:"+name, []string{pluginsGroup}, 0)
	return pluginhost.KeyPair(pair), err
}

// nodePair is the identity of a node.
func nodePair(authority *pki.Authority, node string) (pluginhost.KeyPair, error) {
	pair, err := authority.ClientPair("system:node:"+node, []string{"system:nodes"}, 0)
	return pluginhost.KeyPair(pair), err
}

// Serving is for the node's addresses and names.
func (c authorityCredentials) Serving(name string, ips []netip.Addr, dns []string) (pluginhost.KeyPair, error) {
	pair, err := c.pki.ServerPair("system:plugin:"+name, dns, ips)
	return pluginhost.KeyPair(pair), err
}

// Transport is for the connection between host and plugin.
func (c authorityCredentials) Transport(name string) (pluginhost.Transport, error) {
	return transport(c.pki, name)
}

func transport(authority *pki.Authority, name string) (pluginhost.Transport, error) {
	host, err := authority.ClientPair(pluginv1.KernelName, nil, 0)
	if err != nil {
		return pluginhost.Transport{}, err
	}
	plugin, err := authority.ServerPair(pluginv1.TransportName(name), []string{pluginv1.TransportName(name)}, nil)
	if err != nil {
		return pluginhost.Transport{}, err
	}
	return pluginhost.Transport{
		Host: pluginhost.KeyPair(host), Plugin: pluginhost.KeyPair(plugin), CA: authority.CAPEM(),
	}, nil
}
