package main

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// schema is what the kernel holds spec.config to before it hands it over.
const schema = `{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "tokens": {
      "type": "object",
      "additionalProperties": {
        "type": "object",
        "additionalProperties": false,
        "required": ["user"],
        "properties": {
          "user": {"type": "string", "minLength": 1},
          "groups": {"type": "array", "items": {"type": "string"}},
          "expired": {"type": "boolean"}
        }
      }
    }
  }
}`

// Config is the plugin's configuration.
type Config struct {
	// Tokens with whose they are. Default none.
	Tokens map[string]Account `json:"tokens,omitempty"`
}

// Account is whose a token is.
type Account struct {
	// User is a name without the prefix "system:", which is the cluster's own.
	User string `json:"user"`
	// Groups of the user, without that prefix too. Default none.
	Groups []string `json:"groups,omitempty"`
	// Expired tokens are known and let nobody in.
	Expired bool `json:"expired,omitempty"`
}

// SetDefaults fills in what was left out.
func (*Config) SetDefaults() {}

// Validate returns all faults of a configuration. No message has a token in it.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	tokens := field.NewPath("tokens")
	for token, account := range c.Tokens {
		if token == "" {
			errs = append(errs, field.Required(tokens, "a token is empty"))
		}
		for _, name := range append([]string{account.User}, account.Groups...) {
			if name == "" || strings.HasPrefix(name, "system:") {
				errs = append(errs, field.Invalid(tokens, name, `must be a name that does not begin with "system:"`))
			}
		}
	}
	return errs
}
