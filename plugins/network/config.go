package network

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Encapsulation says when packets between nodes travel in VXLAN.
type Encapsulation string

const (
	// EncapsulationAuto uses VXLAN for nodes on other segments alone.
	EncapsulationAuto Encapsulation = "Auto"
	// EncapsulationAlways uses VXLAN for every other node.
	EncapsulationAlways Encapsulation = "Always"
	// EncapsulationNever leaves nodes on other segments without a route.
	EncapsulationNever Encapsulation = "Never"
)

// Config is the plugin's configuration.
type Config struct {
	// MTU of the pods' interfaces in bytes, 1280 to 65535; 0, the default, takes that of
	// the link with the node's default route (less 50 if encapsulation is Always).
	MTU int `json:"mtu,omitempty"`
	// Encapsulation is Auto (the default), Always or Never.
	Encapsulation Encapsulation `json:"encapsulation,omitempty"`
	// VXLANID is the VXLAN network identifier, 1 to 16777215; default 4075. All nodes of
	// a cluster have the same.
	VXLANID int `json:"vxlanID,omitempty"`
	// VXLANPort is the UDP port of VXLAN, 1 to 65535; default 8472.
	VXLANPort int `json:"vxlanPort,omitempty"`
	// Masquerade gives what leaves the pod network the node's address; default true.
	Masquerade *bool `json:"masquerade,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "mtu": {"type": "integer", "minimum": 0, "maximum": 65535},
    "encapsulation": {"enum": ["Auto", "Always", "Never"]},
    "vxlanID": {"type": "integer", "minimum": 1, "maximum": 16777215},
    "vxlanPort": {"type": "integer", "minimum": 1, "maximum": 65535},
    "masquerade": {"type": "boolean"}
  }
}`

// SetDefaults fills what is not set.
func (c *Config) SetDefaults() {
	if c.Encapsulation == "" {
		c.Encapsulation = EncapsulationAuto
	}
	if c.VXLANID == 0 {
		c.VXLANID = 4075
	}
	if c.VXLANPort == 0 {
		c.VXLANPort = 8472
	}
	if c.Masquerade == nil {
		on := true
		c.Masquerade = &on
	}
}

// Validate returns all faults of a configuration that has its defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		errs = append(errs, field.Invalid(field.NewPath("mtu"), c.MTU, "must be 0 or between 1280 and 65535"))
	}
	switch c.Encapsulation {
	case EncapsulationAuto, EncapsulationAlways, EncapsulationNever:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("encapsulation"), c.Encapsulation,
			[]Encapsulation{EncapsulationAuto, EncapsulationAlways, EncapsulationNever}))
	}
	if c.VXLANID < 1 || c.VXLANID > 1<<24-1 {
		errs = append(errs, field.Invalid(field.NewPath("vxlanID"), c.VXLANID, "must be between 1 and 16777215"))
	}
	if c.VXLANPort < 1 || c.VXLANPort > 65535 {
		errs = append(errs, field.Invalid(field.NewPath("vxlanPort"), c.VXLANPort, "must be between 1 and 65535"))
	}
	return errs
}
