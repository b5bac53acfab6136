package plugins

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson.dev/keelson/core/pluginverify"
)

// verify is what pluginverify says of a program: each fault by the check that found it.
func verify(t *testing.T, p pluginverify.Program) (faults map[string]string, seen string, err error) {
	t.Helper()
	faults = map[string]string{}
	var all strings.Builder
	err = pluginverify.Verify(t.Context(), p, func(c pluginverify.Check) {
		all.WriteString(c.Name + " " + c.Detail + " " + c.Fault + "\n")
		if c.Fault != "" {
			faults[c.Name] += c.Detail + ": " + c.Fault + "\n"
		}
	})
	return faults, all.String(), err
}

// TestVerify: a good plugin is found good, also by the part of the suite that activates it.
func TestVerify(t *testing.T) {
	faults, seen, err := verify(t, pluginverify.Program{Path: hello(t), Config: json.RawMessage(`{"greeting":"Moin"}`), Activate: true})
	if err != nil || len(faults) > 0 {
		t.Fatalf("got %v, %q, want no fault\n%s", err, faults, seen)
	}
	for _, want := range []string{"sha256 " + sum(t, hello(t)), "hello 1.2.3, kind example, one on each node", "fields: greeting", "tests passed"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in\n%s", want, seen)
		}
	}
}

// TestVerifyFaults: what is wrong is found, and said so that the author knows what to do.
func TestVerifyFaults(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"+text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name, check, want string
		program           pluginverify.Program
	}{
		{"not there", "File", "no such file", pluginverify.Program{Path: filepath.Join(dir, "none")}},
		{"writable by others", "File", "chmod go-w", pluginverify.Program{Path: script("loose", "", 0o777)}},
		{"prints before the handshake", "Start", `standard output begins with "hello"`, pluginverify.Program{Path: script("talks", "echo hello\n", 0o755)}},
		{"says why it ends", "Start", "no luck", pluginverify.Program{Path: script("ends", "echo no luck >&2; exit 1\n", 0o755)}},
		{"configuration against the schema", "Schema", "spec.config.greeting", pluginverify.Program{Path: hello(t), Config: json.RawMessage(`{"greeting":7}`)}},
		{"configuration that it refuses", "Contract", "say something", pluginverify.Program{Path: hello(t), Config: json.RawMessage(`{"greeting":""}`), Activate: true}},
		{"lax schema", "Schema", "additionalProperties", pluginverify.Program{Path: os.Args[0], Args: []string{"plugin-run", "lax"}}},
		{"bad rules", "Rules", "rule 0 has no verbs", pluginverify.Program{Path: os.Args[0], Args: []string{"plugin-run", "lax"}}},
		{"unknown requirement", "Requires", `kind "weather" has no socket`, pluginverify.Program{Path: os.Args[0], Args: []string{"plugin-run", "lax"}}},
		{"accepts any configuration", "Contract", "ConfigureRefusesBadConfig", pluginverify.Program{Path: os.Args[0], Args: []string{"plugin-run", "lax"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults, seen, err := verify(t, c.program)
			if !errors.Is(err, pluginverify.ErrFaulty) {
				t.Errorf("got error %v, want ErrFaulty\n%s", err, seen)
			}
			if !strings.Contains(faults[c.check], c.want) {
				t.Errorf("%s: got %q, want %q in\n%s", c.check, faults[c.check], c.want, seen)
			}
		})
	}
}

// TestVerifyKind: what a program does wrong of its kind's contract is found, and what could
// not be looked at is said.
func TestVerifyKind(t *testing.T) {
	programs, err := buildDeciding()
	if err != nil {
		t.Fatal(err)
	}
	guard := programs.Program("guard")
	text, err := os.ReadFile(programs.File("guard", "examples.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.Replace(string(text), "data: {forbidden: x}", "data: {colour: x}", 1)
	for _, c := range []struct {
		name    string
		program pluginverify.Program
		fault   bool
		want    string
	}{
		{"not at work", pluginverify.Program{Path: guard}, false, "Kind the tests of kind admission were not run: they want the plugin at work (--activate)"},
		{"no examples", pluginverify.Program{Path: guard, Activate: true}, false, "they want examples of what it decides (--examples)"},
		{"another decision than the example's", pluginverify.Program{Path: guard, Activate: true, Examples: []byte(wrong)}, true, "Kind Decisions the forbidden key: allowed: got true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, seen, err := verify(t, c.program)
			if errors.Is(err, pluginverify.ErrFaulty) != c.fault || !strings.Contains(seen, c.want) {
				t.Errorf("got %v, want a fault %t and %q in\n%s", err, c.fault, c.want, seen)
			}
		})
	}
	program := pluginverify.Program{Path: guard, Activate: true, Examples: []byte("examples:\n- request: {hoook: mark}\n")}
	if _, _, err := verify(t, program); err == nil || !strings.Contains(err.Error(), "examples[0].request: ") {
		t.Errorf("examples with a field that is not there: got %v", err)
	}
}
