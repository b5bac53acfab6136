package kubelet

import (
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the kubelet's configuration. The zero value becomes the default of each field.
type Config struct {
	// Port is where the HTTPS server listens; 0 means the port the kernel gave (10250).
	Port int `json:"port,omitempty"`
	// LogDir holds the pods' log folders; /var/log/pods by default.
	LogDir string `json:"logDir,omitempty"`
	// ContainerLogLinks holds one link per container log; /var/log/containers by default.
	ContainerLogLinks string `json:"containerLogLinks,omitempty"`
	// ContainerLogMaxSize is the size at which a log is rotated; 10Mi by default.
	ContainerLogMaxSize resource.Quantity `json:"containerLogMaxSize"`
	// ContainerLogMaxFiles is how many files a log has at most, the live one included; 5 by default, at least 2.
	ContainerLogMaxFiles int `json:"containerLogMaxFiles,omitempty"`
	// MaxPods is the number of pods the node takes; 110 by default.
	MaxPods int `json:"maxPods,omitempty"`
	// Labels are added to the node object (for example rack: "3"). Those of kubernetes.io and k8s.io are not a kubelet's to set, but for the
	// prefixes node.kubernetes.io and kubelet.kubernetes.io: the API server refuses them.
	Labels map[string]string `json:"labels,omitempty"`
	// SystemReserved is taken off the capacity (keys cpu and memory); nothing by default.
	SystemReserved map[string]resource.Quantity `json:"systemReserved,omitempty"`
	// CgroupRoot is the parent of the pods' cgroups; /keelson/pods by default.
	CgroupRoot string `json:"cgroupRoot,omitempty"`
	// RelistPeriod is how often the runtime is listed although its events flow; 60s by default, 1s while they do not.
	RelistPeriod metav1.Duration `json:"relistPeriod"`
	// LeaseDuration is the life of the node's lease, renewed each quarter of it; 40s by default.
	LeaseDuration metav1.Duration `json:"leaseDuration"`
	// ResolvConf is the node's resolver file that pods with dnsPolicy Default get; /etc/resolv.conf by default.
	ResolvConf string `json:"resolvConf,omitempty"`
	// PodPidsLimit is the number of processes a pod may have; -1 (the default) means no limit.
	PodPidsLimit int64 `json:"podPidsLimit,omitempty"`
}

const configSchema = `{"type":"object","additionalProperties":false,"properties":{
"port":{"type":"integer"},"logDir":{"type":"string"},"containerLogLinks":{"type":"string"},"containerLogMaxSize":{"type":"string"},
"containerLogMaxFiles":{"type":"integer","minimum":2},"maxPods":{"type":"integer","minimum":1},
"labels":{"type":"object","additionalProperties":{"type":"string"}},"systemReserved":{"type":"object","additionalProperties":{"type":"string"}},
"cgroupRoot":{"type":"string"},"relistPeriod":{"type":"string"},"leaseDuration":{"type":"string"},"resolvConf":{"type":"string"},
"podPidsLimit":{"type":"integer"}}}`

// SetDefaults fills the fields that are not set.
func (c *Config) SetDefaults() {
	setDefault(&c.LogDir, "/var/log/pods")
	setDefault(&c.ContainerLogLinks, "/var/log/containers")
	setDefault(&c.ContainerLogMaxFiles, 5)
	setDefault(&c.MaxPods, 110)
	setDefault(&c.CgroupRoot, "/keelson/pods")
	setDefault(&c.RelistPeriod.Duration, time.Minute)
	setDefault(&c.LeaseDuration.Duration, 40*time.Second)
	setDefault(&c.ResolvConf, "/etc/resolv.conf")
	setDefault(&c.PodPidsLimit, -1)
	if c.ContainerLogMaxSize.IsZero() {
		c.ContainerLogMaxSize = resource.MustParse("10Mi")
	}
}

func setDefault[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// reserved says whether a label's prefix is one that only administrators may set (NodeRestriction).
func reserved(key string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	switch {
	case !ok || !within("kubernetes.io") && !within("k8s.io"):
		return false
	case key == "topology.kubernetes.io/zone" || key == "topology.kubernetes.io/region":
		return false
	}
	return !within("node.kubernetes.io") && !within("kubelet.kubernetes.io")
}

// Validate returns all faults of a configuration whose defaults are set.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, field.Invalid(field.NewPath("port"), c.Port, "must be between 0 and 65535"))
	}
	for _, p := range []struct{ name, value string }{{"logDir", c.LogDir}, {"containerLogLinks", c.ContainerLogLinks}, {"cgroupRoot", c.CgroupRoot}, {"resolvConf", c.ResolvConf}} {
		if !filepath.IsAbs(p.value) || strings.Contains(p.value, "..") {
			errs = append(errs, field.Invalid(field.NewPath(p.name), p.value, "must be an absolute path without '..'"))
		}
	}
	if c.ContainerLogMaxFiles < 2 {
		errs = append(errs, field.Invalid(field.NewPath("containerLogMaxFiles"), c.ContainerLogMaxFiles, "must be at least 2"))
	}
	if c.ContainerLogMaxSize.Value() <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("containerLogMaxSize"), c.ContainerLogMaxSize.String(), "must be greater than zero"))
	}
	if c.MaxPods < 1 {
		errs = append(errs, field.Invalid(field.NewPath("maxPods"), c.MaxPods, "must be at least 1"))
	}
	if c.LeaseDuration.Duration < 4*time.Second {
		errs = append(errs, field.Invalid(field.NewPath("leaseDuration"), c.LeaseDuration.Duration.String(), "must be at least 4s"))
	}
	if c.RelistPeriod.Duration < time.Second {
		errs = append(errs, field.Invalid(field.NewPath("relistPeriod"), c.RelistPeriod.Duration.String(), "must be at least 1s"))
	}
	for key, value := range c.Labels {
		for _, msg := range validation.IsQualifiedName(key) {
			errs = append(errs, field.Invalid(field.NewPath("labels"), key, msg))
		}
		for _, msg := range validation.IsValidLabelValue(value) {
			errs = append(errs, field.Invalid(field.NewPath("labels").Key(key), value, msg))
		}
		if reserved(key) {
			errs = append(errs, field.Forbidden(field.NewPath("labels").Key(key), "a kubelet may not set labels of kubernetes.io and k8s.io on its node "+
				"besides those of node.kubernetes.io and kubelet.kubernetes.io: use kubectl label node"))
		}
	}
	for key, q := range c.SystemReserved {
		if key != "cpu" && key != "memory" {
			errs = append(errs, field.NotSupported(field.NewPath("systemReserved"), key, []string{"cpu", "memory"}))
		} else if q.Sign() < 0 {
			errs = append(errs, field.Invalid(field.NewPath("systemReserved").Key(key), q.String(), "must not be negative"))
		}
	}
	return errs
}
