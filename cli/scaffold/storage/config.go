package main

import (
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "dir": {"type": "string"}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Dir is the absolute path of the folder that has the volumes. Default: "volumes" in
	// the plugin's data folder.
	Dir string `json:"dir,omitempty"`
}

// SetDefaults fills in what was left out; the driver knows the default of Dir.
func (*Config) SetDefaults() {}

// Validate returns all faults of a configuration.
func (c *Config) Validate() field.ErrorList {
	if c.Dir != "" && (!filepath.IsAbs(c.Dir) || filepath.Clean(c.Dir) != c.Dir) {
		return field.ErrorList{field.Invalid(field.NewPath("dir"), c.Dir, "must be an absolute path without dots and doubled slashes")}
	}
	return nil
}
