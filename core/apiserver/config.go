package apiserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/review"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ Min, Max int }

// Config is what a Server needs.
type Config struct {
	// Listen is the address and port to serve on. Default 0.0.0.0:6443. Port 0
	// lets the system choose one.
	Listen string
	// Listener, if there is one, is served on in place of opening Listen.
	Listener net.Listener
	// AdvertiseAddress is where others, pods above all, reach this server.
	// Default: the address of Listen, or if that is unspecified or a loopback
	// address, that of the interface with the default route.
	AdvertiseAddress netip.Addr
	// PKI issues the certificates. Required.
	PKI *pki.Authority
	// DB stores the objects; its owner closes it after Start has returned.
	// Required.
	DB Datastore
	// BackupFiles reads what besides the objects belongs into a backup. Without it
	// backups are of objects only.
	BackupFiles func() ([]*backup.File, error)
	// Log takes what the server has to say. Required.
	Log *slog.Logger
	// ServiceCIDRs are the ranges of cluster IPs, the primary one first. Default
	// 10.96.0.0/12.
	ServiceCIDRs []netip.Prefix
	// NodePorts bounds the ports of NodePort services. Default 30000 to 32767.
	NodePorts PortRange
	// Domain is the cluster's DNS domain. Default cluster.local.
	Domain string
	// EncryptionDir is where Keelson keeps its own keys for encryption at rest, see
	// package encryption. Default: none, and nothing is encrypted unless Options
	// name a configuration.
	EncryptionDir string
	// Plugins acts on the processes behind Plugin objects. Without it their log
	// and restart subresources answer 503.
	Plugins registry.PluginOperator
	// ReviewDir is where the server keeps what plugins of the kinds admission and
	// authorization asked for, see package review. Default: it keeps nothing, and
	// they are asked from their first start on.
	ReviewDir string
	// Options are the operator's choices. Default: NewOptions.
	Options *Options

	// now is the clock of identities, of tests. Nil: the machine's.
	now       func() time.Time
	reviews   *review.Set
	plainPath bool // for tests: without the fast path, whose oracle this is
}

func (c *Config) setDefaults() error {
	if c.Listen == "" {
		c.Listen = "0.0.0.0:6443"
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	if len(c.ServiceCIDRs) == 0 {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	}
	if c.Options == nil {
		c.Options = NewOptions()
	}
	if c.NodePorts == (PortRange{}) {
		c.NodePorts = PortRange{Min: 30000, Max: 32767}
	}
	if c.AdvertiseAddress.IsValid() {
		return nil
	}
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil // validate says it better
	}
	if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() {
		c.AdvertiseAddress = ip.Unmap()
		return nil
	}
	ip, err := utilnet.ChooseHostInterface()
	if err != nil {
		return fmt.Errorf("find this machine's address: %w; name it with --advertise-address", err)
	}
	if addr, ok := netip.AddrFromSlice(ip); ok {
		c.AdvertiseAddress = addr.Unmap()
	}
	return nil
}

func (c *Config) validate() error {
	var errs []error
	if c.PKI == nil || c.DB == nil || c.Log == nil {
		errs = append(errs, errors.New("the API server needs PKI, DB and Log"))
	}
	if host, port, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen address %q is not of the form ADDRESS:PORT", c.Listen))
	} else {
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			errs = append(errs, fmt.Errorf("listen port %q is not a number from 0 to 65535", port))
		}
		if _, err := netip.ParseAddr(host); host != "" && err != nil {
			errs = append(errs, fmt.Errorf("listen address %q is not an IP address", host))
		}
	}
	if a := c.AdvertiseAddress; a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		errs = append(errs, fmt.Errorf("advertise address %s cannot be reached from pods; name one of this machine's other addresses "+
			"with --advertise-address", a))
	}
	for _, p := range c.ServiceCIDRs {
		if !p.IsValid() || p.Masked() != p {
			errs = append(errs, fmt.Errorf("service range %s is not a network; want for example %s", p, p.Masked()))
		} else if free := p.Addr().BitLen() - p.Bits(); free < 3 || free > 20 && p.Addr().Is6() {
			errs = append(errs, fmt.Errorf("service range %s: want between 8 addresses and (IPv6) a /108", p))
		}
	}
	if n := c.NodePorts; n.Min < 1 || n.Max > 65535 || n.Min > n.Max {
		errs = append(errs, fmt.Errorf("node port range %d-%d is not within 1-65535", n.Min, n.Max))
	}
	return errors.Join(append(errs, c.Options.Validate()...)...)
}

// serviceAddress is the cluster IP of the service "kubernetes": the first one
// of the primary range.
func (c *Config) serviceAddress() netip.Addr { return c.ServiceCIDRs[0].Addr().Next() }
