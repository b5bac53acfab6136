package exec

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config says what to run and how. In the fields marked (variables), ${NAME} is replaced
// by what the kernel told the plugin; see README.md for the names.
type Config struct {
	// Command is the program's file, an absolute path (variables). It has to be a file
	// that none but its owner may write.
	Command string `json:"command"`
	// SHA256 of the file, 64 hexadecimal digits; empty: any file at that path.
	SHA256 string `json:"sha256,omitempty"`
	// Args without the program's name (variables). No shell reads them.
	Args []string `json:"args,omitempty"`
	// Env is added to PATH, HOME, TZ and KUBECONFIG (variables in the values).
	Env map[string]string `json:"env,omitempty"`
	// Files are written before each start.
	Files []File `json:"files,omitempty"`
	// Cgroups are made before the start, for what the program moves out of the plugin's
	// own, where nothing outlives the plugin: "/keelson/shims".
	Cgroups []string `json:"cgroups,omitempty"`
	// WorkingDir is where it runs (variables); FILES_DIR by default.
	WorkingDir string `json:"workingDir,omitempty"`
	// User and Group are numbers or names of the node; root by default. The plugin's
	// folders and files then belong to them.
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
	// Health says how to find out whether it works; without, it is ready when it runs.
	Health Health `json:"health"`
	// Standby is what it does before it is activated: cold (the default), nothing, or
	// warm: it runs from the configuration on, and elects a leader for itself.
	Standby string `json:"standby,omitempty"`
	// StopSignal ends it in good order; SIGTERM by default.
	StopSignal string `json:"stopSignal,omitempty"`
	// StopGraceSeconds is how long that may take before SIGKILL: 0 to 4, by default 4.
	// The kernel itself waits no longer.
	StopGraceSeconds *int32 `json:"stopGraceSeconds,omitempty"`
	// RestartOnRenew starts the program again when its certificate was replaced, for
	// those that read theirs but once. Clients of client-go follow by themselves.
	RestartOnRenew bool `json:"restartOnRenew,omitempty"`
}

// File is one to be written.
type File struct {
	// Path (variables): a relative one is below FILES_DIR, an absolute one has to be
	// below RUN_DIR or DATA_DIR.
	Path string `json:"path"`
	// Content of it (variables).
	Content string `json:"content,omitempty"`
	// Link makes it a symbolic link to this absolute path instead (variables).
	Link string `json:"link,omitempty"`
	// Mode in octal digits; "0600" by default.
	Mode string `json:"mode,omitempty"`
}

// Health is how the program is looked at. At most one of the first four is set.
type Health struct {
	// HTTP is a URL that has to answer with 200 to 399. The certificate of https is not
	// verified, as with a kubelet's probes.
	HTTP string `json:"http,omitempty"`
	// TCP is ADDRESS:PORT, or the path of a Unix socket, that has to take a connection.
	TCP string `json:"tcp,omitempty"`
	// GRPC is a target (unix:///…, ADDRESS:PORT) that serves grpc.health.v1.
	GRPC string `json:"grpc,omitempty"`
	// Exec is a program and its arguments that has to end with 0.
	Exec []string `json:"exec,omitempty"`
	// Service is asked for by GRPC; empty: the server as a whole.
	Service string `json:"service,omitempty"`
	// InitialDelaySeconds is the wait before the first look, 0 by default.
	InitialDelaySeconds int32 `json:"initialDelaySeconds,omitempty"`
	// PeriodSeconds is between two looks, 10 by default. Until the first success it is
	// a quarter of a second.
	PeriodSeconds int32 `json:"periodSeconds,omitempty"`
	// TimeoutSeconds bounds one look, 1 by default.
	TimeoutSeconds int32 `json:"timeoutSeconds,omitempty"`
	// SuccessThreshold and FailureThreshold are how many looks in a row make it ready
	// again (1) and degraded (3).
	SuccessThreshold int32 `json:"successThreshold,omitempty"`
	FailureThreshold int32 `json:"failureThreshold,omitempty"`
	// Restart ends a program that is degraded, so that the kernel starts it again.
	Restart bool `json:"restart,omitempty"`
}

const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object", "additionalProperties": false, "required": ["command"],
  "properties": {
    "command": {"type": "string"},
    "sha256": {"type": "string"},
    "args": {"type": "array", "items": {"type": "string"}},
    "env": {"type": "object", "additionalProperties": {"type": "string"}},
    "files": {"type": "array", "items": {
      "type": "object", "additionalProperties": false, "required": ["path"],
      "properties": {"path": {"type": "string"}, "content": {"type": "string"}, "link": {"type": "string"}, "mode": {"type": "string"}}}},
    "cgroups": {"type": "array", "items": {"type": "string"}},
    "workingDir": {"type": "string"},
    "user": {"type": "string"}, "group": {"type": "string"},
    "health": {"type": "object", "additionalProperties": false, "properties": {
      "http": {"type": "string"}, "tcp": {"type": "string"}, "grpc": {"type": "string"},
      "exec": {"type": "array", "items": {"type": "string"}}, "service": {"type": "string"},
      "initialDelaySeconds": {"type": "integer"}, "periodSeconds": {"type": "integer"}, "timeoutSeconds": {"type": "integer"},
      "successThreshold": {"type": "integer"}, "failureThreshold": {"type": "integer"}, "restart": {"type": "boolean"}}},
    "standby": {"enum": ["cold", "warm"]},
    "stopSignal": {"type": "string"},
    "stopGraceSeconds": {"type": "integer", "minimum": 0, "maximum": 4},
    "restartOnRenew": {"type": "boolean"}
  }
}`

const (
	cold = "cold"
	warm = "warm"
	// maxGrace is less than what the kit gives Start to end, in seconds.
	maxGrace = 4
)

// SetDefaults fills what is not set.
func (c *Config) SetDefaults() {
	setDefault(&c.Standby, cold)
	setDefault(&c.StopSignal, "SIGTERM")
	setDefault(&c.WorkingDir, "${FILES_DIR}")
	setDefault(&c.Health.PeriodSeconds, 10)
	setDefault(&c.Health.TimeoutSeconds, 1)
	setDefault(&c.Health.SuccessThreshold, 1)
	setDefault(&c.Health.FailureThreshold, 3)
	if c.StopGraceSeconds == nil {
		c.StopGraceSeconds = new(int32(maxGrace))
	}
	for i := range c.Files {
		setDefault(&c.Files[i].Mode, "0600")
	}
}

func setDefault[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

var (
	checksum   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	mode       = regexp.MustCompile(`^0?[0-7]{3}$`)
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	cgroupPath = regexp.MustCompile(`^(/[A-Za-z0-9_.-]+)+$`)
)

// Validate returns all faults of a configuration that has its defaults.
func (c *Config) Validate() field.ErrorList {
	errs := c.validateVariables()
	fault := func(path *field.Path, value any, format string, args ...any) {
		errs = append(errs, field.Invalid(path, value, fmt.Sprintf(format, args...)))
	}
	switch {
	case c.Command == "":
		errs = append(errs, field.Required(field.NewPath("command"), "name the program's file"))
	case !filepath.IsAbs(c.Command) && !strings.HasPrefix(c.Command, "${"):
		fault(field.NewPath("command"), c.Command, "must be an absolute path: nothing is looked for in PATH")
	}
	if c.SHA256 != "" && !checksum.MatchString(c.SHA256) {
		fault(field.NewPath("sha256"), c.SHA256, "must be 64 lower case hexadecimal digits, as sha256sum prints them")
	}
	for name := range c.Env {
		if !envName.MatchString(name) {
			fault(field.NewPath("env").Key(name), name, "must be letters, digits and _, not beginning with a digit")
		}
	}
	for i, f := range c.Files {
		at := field.NewPath("files").Index(i)
		if f.Path == "" {
			errs = append(errs, field.Required(at.Child("path"), "name the file"))
		}
		if f.Link != "" && f.Content != "" {
			fault(at.Child("link"), f.Link, "may not be set with content")
		}
		if !mode.MatchString(f.Mode) {
			fault(at.Child("mode"), f.Mode, "must be three octal digits, such as 0640")
		}
	}
	for i, g := range c.Cgroups {
		if !cgroupPath.MatchString(g) || slices.Contains(strings.Split(g, "/"), "..") {
			fault(field.NewPath("cgroups").Index(i), g, "must be the path of a cgroup, such as /keelson/shims")
		}
	}
	if c.Standby != cold && c.Standby != warm {
		errs = append(errs, field.NotSupported(field.NewPath("standby"), c.Standby, []string{cold, warm}))
	}
	if unix.SignalNum(c.StopSignal) == 0 {
		fault(field.NewPath("stopSignal"), c.StopSignal, "must be the name of a signal, such as SIGTERM")
	}
	if g := *c.StopGraceSeconds; g < 0 || g > maxGrace {
		fault(field.NewPath("stopGraceSeconds"), g, "must be between 0 and %d: the kernel waits no longer", maxGrace)
	}
	if _, err := c.owner(); err != nil {
		errs = append(errs, err)
	}
	return append(errs, c.Health.validate(field.NewPath("health"))...)
}

func (h *Health) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var set []string
	for name, is := range map[string]bool{"http": h.HTTP != "", "tcp": h.TCP != "", "grpc": h.GRPC != "", "exec": len(h.Exec) > 0} {
		if is {
			set = append(set, name)
		}
	}
	if slices.Sort(set); len(set) > 1 {
		errs = append(errs, field.Forbidden(at, "has "+strings.Join(set, " and ")+": a program is looked at in one way"))
	}
	sample := func(s string) string { return reference.ReplaceAllString(s, "127.0.0.1") }
	if u, err := url.Parse(sample(h.HTTP)); h.HTTP != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, field.Invalid(at.Child("http"), h.HTTP, "must be a URL of http or https"))
	}
	if _, _, err := net.SplitHostPort(h.TCP); h.TCP != "" && err != nil && !filepath.IsAbs(h.TCP) && !strings.HasPrefix(h.TCP, "${") {
		errs = append(errs, field.Invalid(at.Child("tcp"), h.TCP, "must be ADDRESS:PORT, or the path of a Unix socket"))
	}
	if len(h.Exec) > 0 && !filepath.IsAbs(h.Exec[0]) && !strings.HasPrefix(h.Exec[0], "${") {
		errs = append(errs, field.Invalid(at.Child("exec").Index(0), h.Exec[0], "must be an absolute path: nothing is looked for in PATH"))
	}
	for _, n := range []struct {
		name     string
		value    int32
		min, max int32
	}{
		{"initialDelaySeconds", h.InitialDelaySeconds, 0, 600}, {"periodSeconds", h.PeriodSeconds, 1, 600},
		{"timeoutSeconds", h.TimeoutSeconds, 1, 60}, {"successThreshold", h.SuccessThreshold, 1, 100},
		{"failureThreshold", h.FailureThreshold, 1, 100},
	} {
		if n.value < n.min || n.value > n.max {
			errs = append(errs, field.Invalid(at.Child(n.name), n.value, fmt.Sprintf("must be between %d and %d", n.min, n.max)))
		}
	}
	return errs
}
