package proxy

import "k8s.io/apimachinery/pkg/util/validation/field"

// Config is the plugin's configuration.
type Config struct {
	// MasqueradeBit is the bit of the packet mark that says "masquerade", 0 to 31;
	// default 14, as kube-proxy's. Change it if another program uses it.
	MasqueradeBit *int `json:"masqueradeBit,omitempty"`
	// CoalesceMilliseconds is how long the proxy waits for further changes before it
	// sends one, 0 to 10000; default 5.
	CoalesceMilliseconds *int `json:"coalesceMilliseconds,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "masqueradeBit": {"type": "integer", "minimum": 0, "maximum": 31},
    "coalesceMilliseconds": {"type": "integer", "minimum": 0, "maximum": 10000}
  }
}`

// SetDefaults fills what is not set.
func (c *Config) SetDefaults() {
	if c.MasqueradeBit == nil {
		c.MasqueradeBit = new(int)
		*c.MasqueradeBit = 14
	}
	if c.CoalesceMilliseconds == nil {
		c.CoalesceMilliseconds = new(int)
		*c.CoalesceMilliseconds = 5
	}
}

// Validate returns all faults of a configuration that has its defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	if *c.MasqueradeBit < 0 || *c.MasqueradeBit > 31 {
		errs = append(errs, field.Invalid(field.NewPath("masqueradeBit"), *c.MasqueradeBit, "must be between 0 and 31"))
	}
	if *c.CoalesceMilliseconds < 0 || *c.CoalesceMilliseconds > 10000 {
		errs = append(errs, field.Invalid(field.NewPath("coalesceMilliseconds"), *c.CoalesceMilliseconds, "must be between 0 and 10000"))
	}
	return errs
}
