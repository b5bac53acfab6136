package scheduler

import (
	"encoding/json"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the plugin's configuration.
type Config struct {
	// SchedulerName is the spec.schedulerName of the pods that this scheduler
	// serves. Default "default-scheduler".
	SchedulerName string `json:"schedulerName,omitempty"`
	// InitialBackoff is how long a pod waits after its first failed attempt; it
	// doubles with each. Default 1s.
	InitialBackoff metav1.Duration `json:"initialBackoff,omitzero"`
	// MaxBackoff is the most that a pod waits. Default 10s, at least
	// InitialBackoff.
	MaxBackoff metav1.Duration `json:"maxBackoff,omitzero"`
	// PercentageOfNodesToScore is after how many suitable nodes the search
	// ends, in percent of all nodes. Default 0: all below 100 nodes, then from
	// 50 down to 5 percent the more there are.
	PercentageOfNodesToScore int `json:"percentageOfNodesToScore,omitempty"`
	// KubeSchedulerConfiguration is what kube-scheduler's --config has
	// (kubescheduler.config.k8s.io/v1). The other fields are then left out.
	KubeSchedulerConfiguration json.RawMessage `json:"kubeSchedulerConfiguration,omitempty"`

	kube       *kubeConfiguration // nil: not given, or faulty
	kubeFaults field.ErrorList
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	c.applyKube()
	if c.SchedulerName == "" {
		c.SchedulerName = "default-scheduler"
	}
	if c.InitialBackoff.Duration == 0 {
		c.InitialBackoff.Duration = time.Second
	}
	if c.MaxBackoff.Duration == 0 {
		c.MaxBackoff.Duration = max(10*time.Second, c.InitialBackoff.Duration)
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	errs := c.kubeFaults
	if c.InitialBackoff.Duration < 0 {
		errs = append(errs, field.Invalid(field.NewPath("initialBackoff"), c.InitialBackoff.Duration.String(), "must not be negative"))
	}
	if c.MaxBackoff.Duration < c.InitialBackoff.Duration {
		errs = append(errs, field.Invalid(field.NewPath("maxBackoff"), c.MaxBackoff.Duration.String(), "must not be less than initialBackoff"))
	}
	if n := c.PercentageOfNodesToScore; n < 0 || n > 100 {
		errs = append(errs, field.Invalid(field.NewPath("percentageOfNodesToScore"), n, "must be from 0 to 100"))
	}
	return errs
}

// profiles are the configured profiles by schedulerName, without their parts.
func (c *Config) profiles() map[string]*profile {
	if c.kube != nil {
		return c.kube.byName()
	}
	return map[string]*profile{c.SchedulerName: defaultProfile(c.SchedulerName, c.PercentageOfNodesToScore)}
}
