package runtime

import (
	"net"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the plugin's configuration.
type Config struct {
	// Runtime is the OCI runtime: a name to find in PATH, or a path. Empty: crun, else runc.
	Runtime string `json:"runtime,omitempty"`
	// Conmon is the container monitor: a name to find in PATH, or a path. Default: conmon.
	Conmon string `json:"conmon,omitempty"`
	// Registries say how registries are reached, by host[:port] as image names have it.
	Registries map[string]Registry `json:"registries,omitempty"`
	// DockerConfig is a file with registry credentials in Docker's form, for images
	// whose pod brings none. Empty: none.
	DockerConfig string `json:"dockerConfig,omitempty"`
	// SeccompRoot is the directory of localhost profiles. Default:
	// /var/lib/kubelet/seccomp, the kubelet's.
	SeccompRoot string `json:"seccompRoot,omitempty"`
	// MaxExecOutput bounds what ExecSync returns of each stream, in bytes. More is
	// cut off. Default 4 MiB, at most 7 MiB: a message has to hold both streams.
	MaxExecOutput int64 `json:"maxExecOutput,omitempty"`
}

// Registry says how one registry is reached.
type Registry struct {
	// Mirrors are tried first, in order: host[:port].
	Mirrors []string `json:"mirrors,omitempty"`
	// Insecure allows plain HTTP and certificates that nobody known has signed.
	Insecure bool `json:"insecure,omitempty"`
}

const configSchema = `{"type":"object","additionalProperties":false,"properties":{
"runtime":{"type":"string"},"conmon":{"type":"string"},"dockerConfig":{"type":"string"},"seccompRoot":{"type":"string"},
"maxExecOutput":{"type":"integer","minimum":1024,"maximum":7340032},
"registries":{"type":"object","additionalProperties":{"type":"object","additionalProperties":false,"properties":{
"mirrors":{"type":"array","items":{"type":"string"}},"insecure":{"type":"boolean"}}}}}}`

const maxExecOutput = 7 << 20

// SetDefaults fills in what is empty.
func (c *Config) SetDefaults() {
	if c.Conmon == "" {
		c.Conmon = "conmon"
	}
	if c.SeccompRoot == "" {
		c.SeccompRoot = "/var/lib/kubelet/seccomp"
	}
	if c.MaxExecOutput == 0 {
		c.MaxExecOutput = 4 << 20
	}
}

// Validate answers all faults.
func (c *Config) Validate() field.ErrorList {
	var errs field.ErrorList
	for _, file := range []struct{ name, value string }{{"dockerConfig", c.DockerConfig}, {"seccompRoot", c.SeccompRoot}} {
		if file.value != "" && !filepath.IsAbs(file.value) {
			errs = append(errs, field.Invalid(field.NewPath(file.name), file.value, "has to be an absolute path"))
		}
	}
	if c.MaxExecOutput < 1024 || c.MaxExecOutput > maxExecOutput {
		errs = append(errs, field.Invalid(field.NewPath("maxExecOutput"), c.MaxExecOutput, "has to be from 1024 to 7340032 bytes"))
	}
	names := make([]string, 0, len(c.Registries))
	for name := range c.Registries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := field.NewPath("registries").Key(name)
		if !validHost(name) {
			errs = append(errs, field.Invalid(path, name, "has to be host[:port], as in docker.io or registry.example:5000"))
		}
		for i, mirror := range c.Registries[name].Mirrors {
			if !validHost(mirror) {
				errs = append(errs, field.Invalid(path.Child("mirrors").Index(i), mirror, "has to be host[:port], without a scheme"))
			}
		}
	}
	return errs
}

func validHost(host string) bool {
	if host == "" || strings.ContainsAny(host, "/ @") {
		return false
	}
	if strings.Contains(host, ":") {
		name, port, err := net.SplitHostPort(host)
		return err == nil && name != "" && port != ""
	}
	return true
}
