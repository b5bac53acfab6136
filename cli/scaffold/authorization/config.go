package main

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "readers": {"type": "array", "items": {"type": "string"}},
    "blocked": {"type": "array", "items": {"type": "string"}}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Readers are users who may get, list and watch everything. Default none.
	Readers []string `json:"readers,omitempty"`
	// Blocked are users who may do nothing. Default none.
	Blocked []string `json:"blocked,omitempty"`
}

// SetDefaults fills in what was left out.
func (*Config) SetDefaults() {}

// Validate returns all faults of a configuration.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for i, user := range c.Blocked {
		if slices.Contains(c.Readers, user) {
			errs = append(errs, field.Invalid(field.NewPath("blocked").Index(i), user, "is among the readers"))
		}
	}
	return errs
}
