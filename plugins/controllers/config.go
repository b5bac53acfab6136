package controllers

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the plugin's configuration.
type Config struct {
	// Controllers to run. "*" stands for all, "-name" takes one out whatever
	// else is said. Default: ["*"].
	Controllers []string `json:"controllers,omitempty"`
	// NodeMonitorPeriod is how often nodes are looked over for silence.
	// Default 5s, at least 100ms.
	NodeMonitorPeriod metav1.Duration `json:"nodeMonitorPeriod,omitzero"`
	// NodeMonitorGracePeriod is how long a node may be silent before its
	// conditions become Unknown. Default 50s; longer than the period.
	NodeMonitorGracePeriod metav1.Duration `json:"nodeMonitorGracePeriod,omitzero"`
	// NodeStartupGracePeriod is the same for a node that has not reported yet.
	// Default 60s; longer than the period.
	NodeStartupGracePeriod metav1.Duration `json:"nodeStartupGracePeriod,omitzero"`
	// NodeEvictionInterval is the time between two nodes of one zone whose pods
	// become subject to eviction. Default 10s.
	NodeEvictionInterval metav1.Duration `json:"nodeEvictionInterval,omitzero"`
	// NodeSecondaryEvictionInterval is the same in a zone of which a part is down, if the
	// zone is large. Default 100s.
	NodeSecondaryEvictionInterval metav1.Duration `json:"nodeSecondaryEvictionInterval,omitzero"`
	// UnhealthyZoneThreshold is the share of nodes not ready, at least three, from which
	// a part of a zone is down. Default 0.55; above 0, at most 1.
	UnhealthyZoneThreshold *float64 `json:"unhealthyZoneThreshold,omitempty"`
	// LargeClusterSizeThreshold is how many nodes a zone has at most whose pods stay when
	// a part of it is down. Default 50.
	LargeClusterSizeThreshold *int `json:"largeClusterSizeThreshold,omitempty"`
	// NodeCIDRMaskSizeIPv4 is the prefix length of a node's IPv4 pod network.
	// Default 24; not shorter than that of the cluster's.
	NodeCIDRMaskSizeIPv4 int `json:"nodeCIDRMaskSizeIPv4,omitempty"`
	// NodeCIDRMaskSizeIPv6 is the same for IPv6. Default 64.
	NodeCIDRMaskSizeIPv6 int `json:"nodeCIDRMaskSizeIPv6,omitempty"`
	// TerminatedPodThreshold is how many ended pods may stay before the oldest
	// are deleted; 0 is no limit. Default 12500.
	TerminatedPodThreshold *int `json:"terminatedPodThreshold,omitempty"`
	// LegacyTokenCleanUpPeriod is for how long a service account's token in a secret is
	// not used before it is refused, and then before the secret is deleted. Default
	// 8760h, a year; at least 24h.
	LegacyTokenCleanUpPeriod metav1.Duration `json:"legacyTokenCleanUpPeriod,omitzero"`
	// HPASyncPeriod is how often each HorizontalPodAutoscaler looks. Default 15s, at
	// least 100ms.
	HPASyncPeriod metav1.Duration `json:"hpaSyncPeriod,omitzero"`
	// HPADownscaleStabilization is for how long a HorizontalPodAutoscaler that does not
	// say holds a higher number found right against a lower one. Default 5m.
	HPADownscaleStabilization metav1.Duration `json:"hpaDownscaleStabilization,omitzero"`
	// HPATolerance is by how much the ratio of use to target may differ from 1 before
	// one that does not say acts. Default 0.1; not negative, less than 1.
	HPATolerance *float64 `json:"hpaTolerance,omitempty"`
	// HPACPUInitializationPeriod is how long after a pod's start its CPU use counts only
	// if it was ready when that was measured. Default 5m.
	HPACPUInitializationPeriod metav1.Duration `json:"hpaCPUInitializationPeriod,omitzero"`
	// HPAInitialReadinessDelay is how long after a pod's start it may become unready and
	// counts as not having been ready yet. Default 30s.
	HPAInitialReadinessDelay metav1.Duration `json:"hpaInitialReadinessDelay,omitzero"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	if c.Controllers == nil {
		c.Controllers = []string{"*"}
	}
	for _, d := range []struct {
		field *metav1.Duration
		value time.Duration
	}{
		{&c.NodeMonitorPeriod, 5 * time.Second}, {&c.NodeMonitorGracePeriod, 50 * time.Second},
		{&c.NodeStartupGracePeriod, time.Minute}, {&c.NodeEvictionInterval, 10 * time.Second},
		{&c.NodeSecondaryEvictionInterval, 100 * time.Second},
		{&c.LegacyTokenCleanUpPeriod, 365 * 24 * time.Hour},
		{&c.HPASyncPeriod, 15 * time.Second}, {&c.HPADownscaleStabilization, 5 * time.Minute},
		{&c.HPACPUInitializationPeriod, 5 * time.Minute}, {&c.HPAInitialReadinessDelay, 30 * time.Second},
	} {
		if d.field.Duration == 0 {
			d.field.Duration = d.value
		}
	}
	if c.NodeCIDRMaskSizeIPv4 == 0 {
		c.NodeCIDRMaskSizeIPv4 = 24
	}
	if c.NodeCIDRMaskSizeIPv6 == 0 {
		c.NodeCIDRMaskSizeIPv6 = 64
	}
	if c.UnhealthyZoneThreshold == nil {
		c.UnhealthyZoneThreshold = new(0.55)
	}
	if c.LargeClusterSizeThreshold == nil {
		c.LargeClusterSizeThreshold = new(50)
	}
	if c.HPATolerance == nil {
		c.HPATolerance = new(0.1)
	}
	if c.TerminatedPodThreshold == nil {
		n := 12500
		c.TerminatedPodThreshold = &n
	}
}

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for i, s := range c.Controllers {
		if name := strings.TrimPrefix(s, "-"); s != "*" && !slices.Contains(names(), name) {
			errs = append(errs, field.NotSupported(field.NewPath("controllers").Index(i), s, append([]string{"*"}, names()...)))
		}
	}
	if c.NodeMonitorPeriod.Duration < 100*time.Millisecond {
		errs = append(errs, field.Invalid(field.NewPath("nodeMonitorPeriod"), c.NodeMonitorPeriod.Duration.String(), "must be at least 100ms"))
	}
	for name, d := range map[string]time.Duration{
		"nodeMonitorGracePeriod": c.NodeMonitorGracePeriod.Duration, "nodeStartupGracePeriod": c.NodeStartupGracePeriod.Duration,
	} {
		if d <= c.NodeMonitorPeriod.Duration {
			errs = append(errs, field.Invalid(field.NewPath(name), d.String(), "must be longer than nodeMonitorPeriod"))
		}
	}
	if c.NodeEvictionInterval.Duration < 0 {
		errs = append(errs, field.Invalid(field.NewPath("nodeEvictionInterval"), c.NodeEvictionInterval.Duration.String(), "must not be negative"))
	}
	errs = append(errs, c.validateOthers()...)
	if n := c.NodeCIDRMaskSizeIPv4; n < 1 || n > 32 {
		errs = append(errs, field.Invalid(field.NewPath("nodeCIDRMaskSizeIPv4"), n, "must be from 1 to 32"))
	}
	if n := c.NodeCIDRMaskSizeIPv6; n < 1 || n > 128 {
		errs = append(errs, field.Invalid(field.NewPath("nodeCIDRMaskSizeIPv6"), n, "must be from 1 to 128"))
	}
	if *c.TerminatedPodThreshold < 0 {
		errs = append(errs, field.Invalid(field.NewPath("terminatedPodThreshold"), *c.TerminatedPodThreshold, "must not be negative"))
	}
	return append(errs, c.validateHPA()...)
}

func (c *Config) validateOthers() field.ErrorList {
	var errs field.ErrorList
	if d := c.LegacyTokenCleanUpPeriod.Duration; d < 24*time.Hour {
		errs = append(errs, field.Invalid(field.NewPath("legacyTokenCleanUpPeriod"), d.String(), "must be at least 24h"))
	}
	if d := c.NodeSecondaryEvictionInterval.Duration; d < 0 {
		errs = append(errs, field.Invalid(field.NewPath("nodeSecondaryEvictionInterval"), d.String(), "must not be negative"))
	}
	if f := *c.UnhealthyZoneThreshold; f <= 0 || f > 1 {
		errs = append(errs, field.Invalid(field.NewPath("unhealthyZoneThreshold"), f, "must be above 0 and at most 1"))
	}
	if n := *c.LargeClusterSizeThreshold; n < 0 {
		errs = append(errs, field.Invalid(field.NewPath("largeClusterSizeThreshold"), n, "must not be negative"))
	}
	return errs
}

func (c *Config) validateHPA() field.ErrorList {
	var errs field.ErrorList
	if c.HPASyncPeriod.Duration < 100*time.Millisecond {
		errs = append(errs, field.Invalid(field.NewPath("hpaSyncPeriod"), c.HPASyncPeriod.Duration.String(), "must be at least 100ms"))
	}
	for name, d := range map[string]time.Duration{
		"hpaDownscaleStabilization": c.HPADownscaleStabilization.Duration, "hpaCPUInitializationPeriod": c.HPACPUInitializationPeriod.Duration,
		"hpaInitialReadinessDelay": c.HPAInitialReadinessDelay.Duration,
	} {
		if d < 0 {
			errs = append(errs, field.Invalid(field.NewPath(name), d.String(), "must not be negative"))
		}
	}
	if t := *c.HPATolerance; t < 0 || t >= 1 {
		errs = append(errs, field.Invalid(field.NewPath("hpaTolerance"), t, "must be from 0 to less than 1"))
	}
	return errs
}

// enabled tells whether the controller is to run. Taking out wins.
func (c *Config) enabled(name string) bool {
	if slices.Contains(c.Controllers, "-"+name) {
		return false
	}
	return slices.Contains(c.Controllers, name) || slices.Contains(c.Controllers, "*")
}
