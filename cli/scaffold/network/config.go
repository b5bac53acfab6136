package main

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "bridge": {"type": "string", "minLength": 1, "maxLength": 15},
    "podCIDR": {"type": "string"}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Bridge is the name of the link that the pods hang on. Default "flat0".
	Bridge string `json:"bridge,omitempty"`
	// PodCIDR is the IPv4 range of the node's pods. Default: the first one of the Node
	// object's spec.podCIDRs.
	PodCIDR string `json:"podCIDR,omitempty"`
}

// SetDefaults fills in what was left out; the Node object knows the default of PodCIDR.
func (c *Config) SetDefaults() {
	if c.Bridge == "" {
		c.Bridge = "flat0"
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	if c.PodCIDR == "" {
		return nil
	}
	if _, err := parseRange(c.PodCIDR); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("podCIDR"), c.PodCIDR, "must be an IPv4 range of at most 30 bits (10.244.0.0/24)")}
	}
	return nil
}

// parseRange is a range with room for a gateway and a pod.
func parseRange(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err == nil && (!p.Addr().Is4() || p.Bits() > 30) {
		err = &net4Error{text}
	}
	return p.Masked(), err
}

type net4Error struct{ text string }

func (e *net4Error) Error() string { return e.text + " is no IPv4 range with room for pods" }
