package main

import (
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "forbidden": {"type": "string", "minLength": 1}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Forbidden is the key that no ConfigMap may have. Default "forbidden".
	Forbidden string `json:"forbidden,omitempty"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	if c.Forbidden == "" {
		c.Forbidden = "forbidden"
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for _, fault := range validation.IsConfigMapKey(c.Forbidden) {
		errs = append(errs, field.Invalid(field.NewPath("forbidden"), c.Forbidden, fault))
	}
	return errs
}
