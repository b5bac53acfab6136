package pluginverify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"keelson.dev/keelson/core/pluginhost"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// Program is what is verified.
type Program struct {
	// Path of the executable.
	Path string `json:"path"`
	// Args are its arguments.
	Args []string `json:"args,omitempty"`
	// Config is the configuration that it is given; empty: all defaults.
	Config json.RawMessage `json:"config,omitempty"`
	// Activate also runs the tests that activate the plugin, whose work may change the
	// machine.
	Activate bool `json:"activate,omitempty"`
	// Examples are what a plugin of kind admission, authentication or authorization has to
	// decide, in YAML, as the package of the kind's suite reads them (ReadExamples).
	Examples []byte `json:"examples,omitempty"`
}

// Check is one thing that was looked at.
type Check struct {
	// Name is one word.
	Name string
	// Detail is what was found, for people.
	Detail string
	// Fault is what is wrong and what would be right; empty: nothing.
	Fault string
}

// ErrFaulty is returned for a program that is not a good plugin.
var ErrFaulty = errors.New("the program does not fulfil the contract")

// callTimeout bounds each call outside of the suite.
const callTimeout = 20 * time.Second

// Verify tells each check as it is done. It returns ErrFaulty if one found a fault, or
// another error if it could not look.
func Verify(ctx context.Context, p Program, tell func(Check)) error {
	path, err := filepath.Abs(p.Path)
	if err != nil {
		return err
	}
	p.Path = path
	b, err := newBench()
	if err != nil {
		return err
	}
	defer b.close()
	v := &verification{Program: p, bench: b}
	v.tell = func(c Check) {
		v.faulty = v.faulty || c.Fault != ""
		tell(c)
	}
	if v.file() && v.describe(ctx) {
		v.schema()
		v.rules()
		v.requires()
		if err := v.contract(ctx); err != nil {
			return err
		}
	}
	if v.faulty {
		return ErrFaulty
	}
	return nil
}

type verification struct {
	Program
	bench       *bench
	tell        func(Check)
	faulty      bool
	description *pluginv1.DescribeResponse
}

// file looks at the program as the host does.
func (v *verification) file() bool {
	c := Check{Name: "File"}
	defer func() { v.tell(c) }()
	if err := pluginhost.CheckProgram(v.Path); err != nil {
		c.Fault = err.Error()
		return false
	}
	sum, err := Sum(v.Path)
	if err != nil {
		c.Fault = err.Error()
		return false
	}
	c.Detail = "sha256 " + sum
	return true
}

// Sum is the checksum of a file as spec.source.sha256 has it.
func Sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// describe starts the program and asks what it is. The name by which it is started is
// only a guess until it has said its own.
func (v *verification) describe(ctx context.Context) bool {
	s, err := v.bench.start(v.Program, "plugin")
	if err != nil {
		v.tell(Check{Name: "Start", Fault: err.Error()})
		return false
	}
	defer s.kill()
	v.tell(Check{Name: "Start", Detail: fmt.Sprintf("handshake after %s, version %d of the contract", s.took.Round(time.Millisecond), s.client.NegotiatedVersion())})
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, err := s.rpc.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		v.tell(Check{Name: "Describe", Fault: s.proc.explain(errors.New(status.Convert(err).Message())).Error()})
		return false
	}
	v.description = d
	c := Check{Name: "Describe", Detail: fmt.Sprintf("%s %s, kind %s, %s: %s", d.GetName(), d.GetVersion(), d.GetKind(), scope(d.GetScope()), d.GetDescription())}
	var faults []string
	for _, label := range []struct{ what, value string }{{"name", d.GetName()}, {"kind", d.GetKind()}} {
		for _, fault := range validation.IsDNS1123Label(label.value) {
			faults = append(faults, fmt.Sprintf("%s %q: %s", label.what, label.value, fault))
		}
	}
	c.Fault = strings.Join(faults, "\n")
	v.tell(c)
	return c.Fault == ""
}

func scope(s pluginv1.Scope) string {
	switch s {
	case pluginv1.Scope_SCOPE_CLUSTER:
		return "one for the cluster"
	case pluginv1.Scope_SCOPE_NODE:
		return "one on each node"
	default:
		return "no scope"
	}
}

// schema looks at the schema of the configuration, and at the configuration given.
func (v *verification) schema() {
	c := Check{Name: "Schema"}
	defer func() { v.tell(c) }()
	text := v.description.GetConfigSchema()
	if text == "" {
		c.Detail = "none: it takes no configuration"
	} else {
		var s spec.Schema
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			c.Fault = "it is no JSON schema: " + err.Error()
			return
		}
		switch {
		case !s.Type.Contains("object"):
			c.Fault = `its type is not "object": spec.config is always one`
			return
		case s.AdditionalProperties == nil || s.AdditionalProperties.Allows:
			c.Fault = `additionalProperties is not false: a field with a misspelt name would pass it`
			return
		}
		names := make([]string, 0, len(s.Properties))
		for name := range s.Properties {
			names = append(names, name)
		}
		slices.Sort(names)
		c.Detail = "fields: " + strings.Join(names, ", ")
	}
	if err := pluginhost.CheckConfig(text, v.Config); err != nil {
		c.Fault = err.Error()
	}
}

// rules looks at the rights that the plugin asks for.
func (v *verification) rules() {
	c := Check{Name: "Rules", Detail: "none"}
	var lines, faults []string
	for i, r := range v.description.GetRules() {
		lines = append(lines, RuleLine(r.GetVerbs(), r.GetApiGroups(), r.GetResources(), r.GetResourceNames(), r.GetNonResourceUrls()))
		switch {
		case len(r.GetVerbs()) == 0:
			faults = append(faults, fmt.Sprintf("rule %d has no verbs", i))
		case len(r.GetResources()) == 0 && len(r.GetNonResourceUrls()) == 0:
			faults = append(faults, fmt.Sprintf("rule %d has neither resources nor paths", i))
		case len(r.GetResources()) > 0 && len(r.GetApiGroups()) == 0:
			faults = append(faults, fmt.Sprintf(`rule %d has resources and no API group ("" is the core group)`, i))
		}
	}
	if len(lines) > 0 {
		c.Detail = strings.Join(lines, "\n")
	}
	c.Fault = strings.Join(faults, "\n")
	v.tell(c)
}

// RuleLine is an RBAC rule in one line: "get,list pods,services".
func RuleLine(verbs, groups, resources, names, urls []string) string {
	var things []string
	for _, resource := range resources {
		for _, group := range groups {
			if group == "" {
				things = append(things, resource)
			} else {
				things = append(things, resource+"."+group)
			}
		}
	}
	line := strings.Join(verbs, ",") + " " + strings.Join(append(things, urls...), ",")
	if len(names) > 0 {
		line += " named " + strings.Join(names, ",")
	}
	return line
}

// sockets are the kinds that others may call.
var sockets = []string{"runtime", "network", "storage"}

func (v *verification) requires() {
	c := Check{Name: "Requires", Detail: "no other kind"}
	if kinds := v.description.GetRequires(); len(kinds) > 0 {
		c.Detail = strings.Join(kinds, ", ")
		for _, kind := range kinds {
			if !slices.Contains(sockets, kind) {
				c.Fault = fmt.Sprintf("kind %q has no socket to call; there are %s", kind, strings.Join(sockets, ", "))
			}
		}
	}
	v.tell(c)
}

// contract passes the program through the suite of every plugin, and that of its kind.
func (v *verification) contract(ctx context.Context) error {
	s := suite{Program: v.Program, Name: v.description.GetName()}
	kind := v.description.GetKind()
	k, has := kinds[kind]
	without := ""
	if has {
		if without = v.without(k); without == "" {
			s.Kind = kind
		}
	}
	if len(v.Examples) > 0 {
		if err := checkExamples(kind, v.Examples); err != nil {
			return fmt.Errorf("--examples: %w", err)
		}
	}
	passed, failed := map[string]int{}, map[string]int{}
	var skipped []string
	err := runSuite(ctx, s, func(r result) {
		switch {
		case r.fault != "":
			failed[r.group]++
			v.tell(Check{Name: r.group, Detail: r.test, Fault: r.fault})
		case r.skipped != "":
			skipped = append(skipped, r.test+" not run: "+r.skipped)
		default:
			passed[r.group]++
		}
	})
	if err != nil {
		return err
	}
	if failed[groupContract] == 0 {
		detail := fmt.Sprintf("%d tests passed", passed[groupContract])
		if !v.Activate {
			detail += ", those that activate it left out"
		}
		v.tell(Check{Name: groupContract, Detail: detail})
	}
	switch {
	case without != "":
		v.tell(Check{Name: groupKind, Detail: fmt.Sprintf("the tests of kind %s were not run: %s", kind, without)})
	case has && failed[groupKind] == 0:
		details := append([]string{fmt.Sprintf("%d tests of kind %s passed", passed[groupKind], kind)}, skipped...)
		if k.left != "" {
			details = append(details, "not run: "+k.left)
		}
		v.tell(Check{Name: groupKind, Detail: strings.Join(details, "\n")})
	}
	return nil
}

// without says what the suite of a kind lacks; empty: nothing.
func (v *verification) without(k kind) string {
	switch {
	case !v.Activate:
		return "they want the plugin at work (--activate)"
	case k.examples && len(v.Examples) == 0:
		return "they want examples of what it decides (--examples)"
	case k.root && os.Geteuid() != 0:
		return "they want root, to make network namespaces and mounts"
	}
	return ""
}

// Describe starts a program just to ask what it is.
func Describe(ctx context.Context, p Program) (*pluginv1.DescribeResponse, error) {
	path, err := filepath.Abs(p.Path)
	if err != nil {
		return nil, err
	}
	p.Path = path
	if err := pluginhost.CheckProgram(path); err != nil {
		return nil, err
	}
	b, err := newBench()
	if err != nil {
		return nil, err
	}
	defer b.close()
	s, err := b.start(p, "plugin")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	defer s.kill()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d, err := s.rpc.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return nil, s.proc.explain(fmt.Errorf("describe %s: %s", path, status.Convert(err).Message()))
	}
	return d, nil
}
