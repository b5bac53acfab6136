package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/plugins/kit"
)

// Config is the plugin's configuration.
type Config struct {
	// Nodes is how many there are: 1 to 10,000. With fewer than before, those with the
	// highest numbers are deleted. Default 10.
	Nodes int `json:"nodes,omitempty"`
	// NamePrefix begins the nodes' names, PREFIX-00000 and on, and is the value of their
	// label keelson.dev/sim. Processes with different prefixes run side by side.
	// Default "sim"; at most 50 characters.
	NamePrefix string `json:"namePrefix,omitempty"`
	// Zones is how many there are; nodes go to zone-1, zone-2 and on in turn. Default 1.
	Zones int `json:"zones,omitempty"`
	// Region of all nodes. Default "sim".
	Region string `json:"region,omitempty"`
	// Capacity of each node, all of it allocatable. Default: 32 CPUs, 128Gi of memory,
	// 100Gi of ephemeral storage, 110 pods; what is named here replaces these one by one.
	Capacity corev1.ResourceList `json:"capacity,omitempty"`
	// Labels are added to those of each node.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints of new nodes. Default: keelson.dev/sim=PREFIX:NoSchedule, so that no real
	// pod goes there; an empty list is none.
	Taints []corev1.Taint `json:"taints,omitzero"`
	// NodeAddresses is the range of the nodes' addresses, which nobody answers at; node
	// number n has the address n+1 in it. Default 198.18.0.0/15 (RFC 2544).
	NodeAddresses string `json:"nodeAddresses,omitempty"`
	// PodAddresses is the range of the addresses of pods on nodes without a pod range of
	// their own, 256 for each node. Default 100.64.0.0/10 (RFC 6598).
	PodAddresses string `json:"podAddresses,omitempty"`
	// LeaseDuration is that of the nodes' leases, which are renewed four times in it.
	// Default 40s, at least 4s.
	LeaseDuration metav1.Duration `json:"leaseDuration,omitzero"`
	// StatusInterval is how often a node's unchanged status is written. Default 5m, at
	// least 1s.
	StatusInterval metav1.Duration `json:"statusInterval,omitzero"`
	// StartLatency is from a pod's binding until its sandbox is there; its containers
	// run then, if it has no init containers. Default 0s: ContainerCreating is not written.
	StartLatency Latency `json:"startLatency,omitzero"`
	// InitLatency is how long each init container runs. Default 0s.
	InitLatency Latency `json:"initLatency,omitzero"`
	// ReadyLatency is from the start of the containers until the pod is ready. Default 0s.
	ReadyLatency Latency `json:"readyLatency,omitzero"`
	// StopLatency is how long containers take to end; the pod's grace period bounds it.
	// Default 0s.
	StopLatency Latency `json:"stopLatency,omitzero"`
	// FailuresPerHour is how often the containers of a ready pod end with exit code 1, on
	// average. Default 0: never.
	FailuresPerHour float64 `json:"failuresPerHour,omitempty"`
	// SilentZones are the zones whose nodes do nothing, as after a loss of power.
	SilentZones []string `json:"silentZones,omitempty"`
	// Writers is how many requests for pods are under way at most, 1 to 256. Beside them
	// are those for heartbeats: one for each 5 nodes, 2 to 200. Kubelets do not wait for
	// each other, so few would make nodes look dead where the server is slow. Default 64.
	Writers int `json:"writers,omitempty"`
}

// SetDefaults fills in what was left out.
func (c *Config) SetDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&c.Nodes, 10}, {&c.Zones, 1}, {&c.Writers, 64}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *string
		value string
	}{{&c.NamePrefix, "sim"}, {&c.Region, "sim"}, {&c.NodeAddresses, "198.18.0.0/15"}, {&c.PodAddresses, "100.64.0.0/10"}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if c.LeaseDuration.Duration == 0 {
		c.LeaseDuration.Duration = 40 * time.Second
	}
	if c.StatusInterval.Duration == 0 {
		c.StatusInterval.Duration = 5 * time.Minute
	}
	if c.Taints == nil {
		c.Taints = []corev1.Taint{{Key: Label, Value: c.NamePrefix, Effect: corev1.TaintEffectNoSchedule}}
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	maps.Copy(capacity, c.Capacity)
	c.Capacity = capacity
}

// maxNodes bounds Config.Nodes; the names have five digits.
const maxNodes = 10_000

// Validate returns all faults of a configuration with defaults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	fault := func(path string, value any, detail string) {
		errs = append(errs, field.Invalid(field.NewPath(path), value, detail))
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		fault("nodes", c.Nodes, fmt.Sprintf("must be from 1 to %d", maxNodes))
	}
	if c.Zones < 1 || c.Zones > maxNodes {
		fault("zones", c.Zones, fmt.Sprintf("must be from 1 to %d", maxNodes))
	}
	if c.Writers < 1 || c.Writers > 256 {
		fault("writers", c.Writers, "must be from 1 to 256")
	}
	if bad := validation.IsDNS1123Label(c.NamePrefix); len(bad) > 0 {
		fault("namePrefix", c.NamePrefix, bad[0])
	} else if len(c.NamePrefix) > 50 {
		fault("namePrefix", c.NamePrefix, "must have at most 50 characters")
	}
	if bad := validation.IsValidLabelValue(c.Region); len(bad) > 0 {
		fault("region", c.Region, bad[0])
	}
	if c.LeaseDuration.Duration < 4*time.Second {
		fault("leaseDuration", c.LeaseDuration.Duration.String(), "must be at least 4s")
	}
	if c.StatusInterval.Duration < time.Second {
		fault("statusInterval", c.StatusInterval.Duration.String(), "must be at least 1s")
	}
	if !(c.FailuresPerHour >= 0 && c.FailuresPerHour <= 3600) {
		fault("failuresPerHour", c.FailuresPerHour, "must be from 0 to 3600")
	}
	for _, l := range []struct {
		name  string
		value Latency
	}{{"startLatency", c.StartLatency}, {"initLatency", c.InitLatency}, {"readyLatency", c.ReadyLatency}, {"stopLatency", c.StopLatency}} {
		if detail := l.value.wrong(); detail != "" {
			fault(l.name, l.value.String(), detail)
		}
	}
	errs = append(errs, c.validateRanges()...)
	return append(errs, c.validateObjects()...)
}

// validateRanges looks at the ranges of addresses.
func (c *Config) validateRanges() field.ErrorList {
	var errs field.ErrorList
	for _, r := range []struct {
		name, value string
		bits        int // that number the nodes, at least
		each        int // bits that number addresses of one node
	}{{"nodeAddresses", c.NodeAddresses, c.Nodes + 1, 0}, {"podAddresses", c.PodAddresses, c.Nodes, 8}} {
		p, err := netip.ParsePrefix(r.value)
		switch path := field.NewPath(r.name); {
		case err != nil || !p.Addr().Is4() || p.Masked() != p:
			errs = append(errs, field.Invalid(path, r.value, "must be an IPv4 network in CIDR form, such as 198.18.0.0/15"))
		case 32-p.Bits() < r.each || 1<<(32-p.Bits()-r.each) < r.bits:
			errs = append(errs, field.Invalid(path, r.value, fmt.Sprintf("is too small for %d nodes", c.Nodes)))
		}
	}
	return errs
}

// validateObjects looks at what goes into Node objects as it is.
func (c *Config) validateObjects() field.ErrorList {
	var errs field.ErrorList
	for name, q := range c.Capacity {
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(field.NewPath("capacity").Key(string(name)), q.String(), "must not be negative"))
		}
	}
	for name, value := range c.Labels {
		for _, bad := range append(validation.IsQualifiedName(name), validation.IsValidLabelValue(value)...) {
			errs = append(errs, field.Invalid(field.NewPath("labels").Key(name), value, bad))
		}
	}
	effects := []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	for i, t := range c.Taints {
		path := field.NewPath("taints").Index(i)
		for _, bad := range append(validation.IsQualifiedName(t.Key), validation.IsValidLabelValue(t.Value)...) {
			errs = append(errs, field.Invalid(path, t.Key+"="+t.Value, bad))
		}
		if !slices.Contains(effects, t.Effect) {
			errs = append(errs, field.NotSupported(path.Child("effect"), t.Effect, effects))
		}
	}
	for i, zone := range c.SilentZones {
		if !slices.Contains(c.zones(), zone) {
			errs = append(errs, field.NotSupported(field.NewPath("silentZones").Index(i), zone, c.zones()))
		}
	}
	return errs
}

// zones are their names.
func (c *Config) zones() []string {
	out := make([]string, min(max(c.Zones, 0), maxNodes))
	for i := range out {
		out[i] = zoneName(i, len(out))
	}
	return out
}

// zoneName is the zone of a node.
func zoneName(node, zones int) string { return fmt.Sprintf("zone-%d", node%zones+1) }

// ReadConfig reads a configuration as the plugin does: nothing unknown, with defaults,
// without faults.
func ReadConfig(raw []byte) (Config, error) {
	var c Config
	env := kit.Env{Config: raw}
	return c, env.LoadConfig(&c)
}
