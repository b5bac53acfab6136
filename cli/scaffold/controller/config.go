package main

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
    "exclude": {"type": "array", "items": {"type": "string"}},
    "overwrite": {"type": "boolean"}
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Labels that each namespace gets. Default: a warning of pods that are less safe
	// than pod security's baseline.
	Labels map[string]string `json:"labels,omitempty"`
	// Exclude are namespaces that are left alone. Default: the cluster's own.
	Exclude []string `json:"exclude,omitempty"`
	// Overwrite gives a label its value also where a namespace has another one.
	Overwrite bool `json:"overwrite,omitempty"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	if c.Labels == nil {
		c.Labels = map[string]string{"pod-security.kubernetes.io/warn": "baseline"}
	}
	if c.Exclude == nil {
		c.Exclude = []string{"kube-system", "kube-public", "kube-node-lease"}
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	labels := field.NewPath("labels")
	for key, value := range c.Labels {
		for _, fault := range validation.IsQualifiedName(key) {
			errs = append(errs, field.Invalid(labels.Key(key), key, fault))
		}
		for _, fault := range validation.IsValidLabelValue(value) {
			errs = append(errs, field.Invalid(labels.Key(key), value, fault))
		}
	}
	for i, namespace := range c.Exclude {
		for _, fault := range validation.IsDNS1123Label(namespace) {
			errs = append(errs, field.Invalid(field.NewPath("exclude").Index(i), namespace, fault))
		}
	}
	return errs
}

// missing are the labels that a namespace is to get.
func (c *Config) missing(namespace string, labels map[string]string) map[string]string {
	if slices.Contains(c.Exclude, namespace) {
		return nil
	}
	out := map[string]string{}
	for key, value := range c.Labels {
		if has, ok := labels[key]; !ok || c.Overwrite && has != value {
			out[key] = value
		}
	}
	return out
}
