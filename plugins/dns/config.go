package dns

import (
	"net"
	"net/netip"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the plugin's configuration.
type Config struct {
	// TTL of cluster names in seconds, 0 to 3600; default 5. Negative answers have it too.
	TTL *uint32 `json:"ttl,omitempty"`
	// Upstreams are resolvers for other names, "ADDRESS" or "ADDRESS:PORT"; default: those
	// of resolvConf.
	Upstreams []string `json:"upstreams,omitempty"`
	// ResolvConf names the file with the machine's resolvers; default /etc/resolv.conf, or
	// systemd-resolved's own if that one has only a loopback address.
	ResolvConf string `json:"resolvConf,omitempty"`
	// CacheEntries bounds the cache of other names, 0 (none) to 1000000; default 10000.
	CacheEntries *int `json:"cacheEntries,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "ttl": {"type": "integer", "minimum": 0, "maximum": 3600},
    "upstreams": {"type": "array", "items": {"type": "string"}},
    "resolvConf": {"type": "string"},
    "cacheEntries": {"type": "integer", "minimum": 0, "maximum": 1000000}
  }
}`

const defaultResolvConf = "/etc/resolv.conf"

// SetDefaults fills what is not set.
func (c *Config) SetDefaults() {
	if c.TTL == nil {
		c.TTL = new(uint32)
		*c.TTL = 5
	}
	if c.ResolvConf == "" {
		c.ResolvConf = defaultResolvConf
	}
	if c.CacheEntries == nil {
		c.CacheEntries = new(int)
		*c.CacheEntries = 10000
	}
}

// Validate returns all faults of a configuration that has its defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	if *c.TTL > 3600 {
		errs = append(errs, field.Invalid(field.NewPath("ttl"), *c.TTL, "must be between 0 and 3600"))
	}
	if *c.CacheEntries < 0 || *c.CacheEntries > 1000000 {
		errs = append(errs, field.Invalid(field.NewPath("cacheEntries"), *c.CacheEntries, "must be between 0 and 1000000"))
	}
	for i, u := range c.Upstreams {
		if _, ok := upstreamAddress(u); !ok {
			errs = append(errs, field.Invalid(field.NewPath("upstreams").Index(i), u, "must be an IP address, or one with a port"))
		}
	}
	return errs
}

// upstreamAddress completes an address with port 53.
func upstreamAddress(text string) (string, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return net.JoinHostPort(addr.String(), strconv.Itoa(dnsPort)), true
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.String(), err == nil && ap.Port() != 0
}
