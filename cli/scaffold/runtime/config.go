package main

import (
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "socket": {"type": "string"},
    "registries": {"type": "array", "items": {"type": "string"}}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Socket of the runtime behind, an absolute path. Default
	// "/run/containerd/containerd.sock".
	Socket string `json:"socket,omitempty"`
	// Registries that images may be pulled from ("registry.k8s.io"). Default: all.
	Registries []string `json:"registries,omitempty"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	if c.Socket == "" {
		c.Socket = "/run/containerd/containerd.sock"
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	if !filepath.IsAbs(c.Socket) {
		errs = append(errs, field.Invalid(field.NewPath("socket"), c.Socket, "must be an absolute path"))
	}
	for i, r := range c.Registries {
		if r == "" || strings.Contains(r, "/") {
			errs = append(errs, field.Invalid(field.NewPath("registries").Index(i), r, "must be a host, with a port if need be"))
		}
	}
	return errs
}

// allows tells whether an image's registry is one of the list.
func (c *Config) allows(image string) bool {
	if len(c.Registries) == 0 {
		return true
	}
	registry, rest, _ := strings.Cut(image, "/")
	if rest == "" || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		registry = "docker.io" // what a name without a registry means
	}
	return slices.Contains(c.Registries, registry)
}
