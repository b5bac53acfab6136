package apiserver

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAdmissionOrder: every plugin that exists has exactly one place.
func TestAdmissionOrder(t *testing.T) {
	var places []string
	for _, p := range admissionOrder {
		if slices.Contains(places, p.name) {
			t.Errorf("%s stands twice in admissionOrder", p.name)
		}
		places = append(places, p.name)
	}
	for _, name := range registeredAdmission() {
		if !slices.Contains(places, name) {
			t.Errorf("plugin %s has no place in admissionOrder and would never run", name)
		}
	}
}

func TestAdmissionOptions(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	for _, tt := range []struct {
		name    string
		options AdmissionOptions
		want    string // part of the error; empty: none
	}{
		{name: "none"},
		{name: "switched off", options: AdmissionOptions{Disable: []string{"Priority"}}},
		{name: "unknown", options: AdmissionOptions{Enable: []string{"Prioritty"}}, want: `--enable-admission-plugins: admission plugin "Prioritty" is unknown`},
		{name: "unknown to switch off", options: AdmissionOptions{Disable: []string{"x"}}, want: `--disable-admission-plugins: admission plugin "x" is unknown`},
		{name: "known to Kubernetes only", options: AdmissionOptions{Enable: []string{"ImagePolicyWebhook"}}, want: `admission plugin "ImagePolicyWebhook" does not exist here`},
		{name: "on and off", options: AdmissionOptions{Enable: []string{"Priority"}, Disable: []string{"Priority"}}, want: `both name "Priority"`},
		{name: "no file", options: AdmissionOptions{ConfigFile: filepath.Join(dir, "none")}, want: "--admission-control-config-file: open "},
		{name: "file without plugins", options: AdmissionOptions{ConfigFile: file("empty", head)}},
		{name: "file of a plugin", options: AdmissionOptions{ConfigFile: file("good", head+"- name: Priority\n  configuration: {a: b}\n")}},
		{name: "not YAML", options: AdmissionOptions{ConfigFile: file("bad", "{")}, want: "read " + dir},
		{name: "another kind", options: AdmissionOptions{ConfigFile: file("kind", "apiVersion: v1\nkind: Pod\n")}, want: `no kind "Pod" is registered`},
		{name: "unknown field", options: AdmissionOptions{ConfigFile: file("field", head+"- nam: Priority\n")}, want: `unknown field "plugins[0].nam"`},
		{name: "unknown plugin", options: AdmissionOptions{ConfigFile: file("plugin", head+"- name: Prio\n")}, want: `plugins[0].name: admission plugin "Prio" does not exist here`},
		{name: "configured twice", options: AdmissionOptions{ConfigFile: file("twice", head+strings.Repeat("- name: Priority\n  configuration: {}\n", 2))}, want: `plugins[1].name: "Priority" is configured twice`},
		{name: "no file of the plugin", options: AdmissionOptions{ConfigFile: file("path", head+"- name: Priority\n  path: none.yaml\n")}, want: "plugins[0].path: open " + filepath.Join(dir, "none.yaml")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := errors.Join(tt.options.validate()...)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestAdmissionConfigFile: a plugin gets what the file says, or the file it names.
func TestAdmissionConfigFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one.yaml", "one: 1\n")
	write("all.yaml", `apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- {name: Priority, path: one.yaml}
- {name: ServiceAccount, configuration: {two: 2}}
`)
	config, err := readAdmissionConfig(filepath.Join(dir, "all.yaml"), admissionNames(false))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"Priority": "one: 1\n", "ServiceAccount": `{"two":2}`, "NamespaceLifecycle": ""} {
		r, err := config.ConfigFor(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		if r != nil {
			if got, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != want {
			t.Errorf("configuration of %s is %q, want %q", name, got, want)
		}
	}
}

func TestAdmissionEnabled(t *testing.T) {
	registered := []string{"Priority", "AlwaysDeny", "ServiceAccount"}
	o := AdmissionOptions{Enable: []string{"AlwaysDeny"}, Disable: []string{"Priority"}}
	if got, want := o.enabled(registered), []string{"ServiceAccount", "AlwaysDeny"}; !slices.Equal(got, want) {
		t.Errorf("enabled %v, want %v", got, want)
	}
}
