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
    "schedulerName": {"type": "string"}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// SchedulerName is the spec.schedulerName of the pods that it serves. Default
	// "default-scheduler".
	SchedulerName string `json:"schedulerName,omitempty"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	if c.SchedulerName == "" {
		c.SchedulerName = "default-scheduler"
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for _, fault := range validation.IsDNS1123Subdomain(c.SchedulerName) {
		errs = append(errs, field.Invalid(field.NewPath("schedulerName"), c.SchedulerName, fault))
	}
	return errs
}
