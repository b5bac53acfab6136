package keelson

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

// byPath is a valid plugin of a file.
func byPath() *keelsonv1alpha1.Plugin {
	p := &keelsonv1alpha1.Plugin{Spec: keelsonv1alpha1.PluginSpec{
		Kind:      "scheduler",
		Source:    keelsonv1alpha1.PluginSource{Path: "/var/lib/keelson/plugins.d/x", SHA256: strings.Repeat("0a", 32)},
		Args:      []string{"-v"},
		Config:    &runtime.RawExtension{Raw: []byte(`{"a":1}`)},
		Rules:     []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}, {Verbs: []string{"get"}, NonResourceURLs: []string{"/version"}}},
		Resources: &keelsonv1alpha1.PluginResources{Limits: &keelsonv1alpha1.PluginLimits{Memory: new(resource.MustParse("64Mi")), CPU: new(resource.MustParse("500m")), Pids: new(int64(100))}},
		Shadow:    &keelsonv1alpha1.PluginShadow{Config: &runtime.RawExtension{Raw: []byte(`{}`)}},
	}}
	setDefaults(p)
	return p
}

func TestValidate(t *testing.T) {
	limits := func(p *keelsonv1alpha1.Plugin) *keelsonv1alpha1.PluginLimits { return p.Spec.Resources.Limits }
	for _, c := range []struct {
		name   string
		change func(p *keelsonv1alpha1.Plugin)
		want   []string // field and part of the message
	}{
		{"valid", func(*keelsonv1alpha1.Plugin) {}, nil},
		{"built in", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source = keelsonv1alpha1.PluginSource{BuiltIn: true} }, nil},
		{"no kind", func(p *keelsonv1alpha1.Plugin) { p.Spec.Kind = "" }, []string{"spec.kind: Required value"}},
		{"bad kind", func(p *keelsonv1alpha1.Plugin) { p.Spec.Kind = "Dns" }, []string{`spec.kind: Invalid value: "Dns"`}},
		{"scope", func(p *keelsonv1alpha1.Plugin) { p.Spec.Scope = "Pod" }, []string{`spec.scope: Unsupported value: "Pod": supported values: "Cluster", "Node"`}},
		{"no checksum", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.SHA256 = "" }, []string{"spec.source.sha256: Required value: must be set with `path`"}},
		{"bad checksum", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.SHA256 = "0A" }, []string{`spec.source.sha256: Invalid value: "0A"`}},
		{"path and built in", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.BuiltIn = true }, []string{"spec.source.path: Invalid value"}},
		{"checksum and built in", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.BuiltIn, p.Spec.Source.Path = true, "" }, []string{"spec.source.sha256: Invalid value"}},
		{"relative path", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.Path = "x" }, []string{`spec.source.path: Invalid value: "x": must be an absolute path`}},
		{"path with dots", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.Path = "/a/../b" }, []string{"spec.source.path: Invalid value"}},
		{"program", func(p *keelsonv1alpha1.Plugin) {
			p.Spec.Source = keelsonv1alpha1.PluginSource{Program: "exec"}
			setDefaults(p)
		}, nil},
		{"program and path", func(p *keelsonv1alpha1.Plugin) { p.Spec.Source.Program = "exec" }, []string{"spec.source.program: Invalid value"}},
		{"bad program", func(p *keelsonv1alpha1.Plugin) {
			p.Spec.Source = keelsonv1alpha1.PluginSource{BuiltIn: true, Program: "/bin/sh"}
		}, []string{`spec.source.program: Invalid value: "/bin/sh"`}},
		{"no path", func(p *keelsonv1alpha1.Plugin) {
			p.Spec.Source = keelsonv1alpha1.PluginSource{SHA256: strings.Repeat("0", 64)}
		}, []string{"spec.source.path: Required value"}},
		{"zero byte", func(p *keelsonv1alpha1.Plugin) { p.Spec.Args = []string{"a", "b\x00"} }, []string{"spec.args[1]: Invalid value"}},
		{"config", func(p *keelsonv1alpha1.Plugin) { p.Spec.Config.Raw = []byte(`[1]`) }, []string{`spec.config: Invalid value: "[1]": must be an object`}},
		{"rule without verbs", func(p *keelsonv1alpha1.Plugin) { p.Spec.Rules[0].Verbs = nil }, []string{"spec.rules[0].verbs: Required value"}},
		{"rule without group", func(p *keelsonv1alpha1.Plugin) { p.Spec.Rules[0].APIGroups = nil }, []string{"spec.rules[0].apiGroups: Required value"}},
		{"rule without resources", func(p *keelsonv1alpha1.Plugin) { p.Spec.Rules[0].Resources = nil }, []string{"spec.rules[0].resources: Required value"}},
		{"rule of both", func(p *keelsonv1alpha1.Plugin) { p.Spec.Rules[1].Resources = []string{"pods"} }, []string{"spec.rules[1].nonResourceURLs: Invalid value"}},
		{"too little", func(p *keelsonv1alpha1.Plugin) {
			*limits(p) = keelsonv1alpha1.PluginLimits{Memory: new(resource.MustParse("1Mi")), CPU: new(resource.MustParse("9m")), Pids: new(int64(15))}
		}, []string{
			`spec.resources.limits.memory: Invalid value: "1Mi": must be at least 8Mi`,
			`spec.resources.limits.cpu: Invalid value: "9m": must be at least 10m`,
			"spec.resources.limits.pids: Invalid value: 15: must be at least 16",
		}},
		{"the least", func(p *keelsonv1alpha1.Plugin) {
			*limits(p) = keelsonv1alpha1.PluginLimits{Memory: new(resource.MustParse("8Mi")), CPU: new(resource.MustParse("10m")), Pids: new(int64(16))}
		}, nil},
		{"no limits", func(p *keelsonv1alpha1.Plugin) { p.Spec.Resources.Limits = nil }, nil},
		{"watch too long", func(p *keelsonv1alpha1.Plugin) { p.Spec.Swap.WatchSeconds = new(int32(86401)) }, []string{"spec.swap.watchSeconds: Invalid value: 86401: must be between 0 and 86400, inclusive"}},
		{"watch negative", func(p *keelsonv1alpha1.Plugin) { p.Spec.Swap.WatchSeconds = new(int32(-1)) }, []string{"spec.swap.watchSeconds: Invalid value: -1"}},
		{"no watch", func(p *keelsonv1alpha1.Plugin) { p.Spec.Swap.WatchSeconds = new(int32(0)) }, nil},
		{"shadow of a kind that does not decide", func(p *keelsonv1alpha1.Plugin) { p.Spec.Kind = "dns" },
			[]string{`spec.shadow: Forbidden: a plugin of kind "dns" decides nothing that could be compared: only those of the kinds admission and scheduler may have a shadow`}},
		{"bad shadow", func(p *keelsonv1alpha1.Plugin) {
			*p.Spec.Shadow = keelsonv1alpha1.PluginShadow{Source: keelsonv1alpha1.PluginSource{Path: "/x"}, Args: []string{"\x00"}, Config: &runtime.RawExtension{Raw: []byte(`"x"`)}}
		}, []string{"spec.shadow.source.sha256: Required value", "spec.shadow.args[0]: Invalid value", "spec.shadow.config: Invalid value"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := byPath()
			c.change(p)
			got := validate(p)
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %d faults", got, len(c.want))
			}
			for i, w := range c.want {
				if !strings.HasPrefix(got[i].Error(), w) {
					t.Errorf("got %q, want it to begin with %q", got[i], w)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p := &keelsonv1alpha1.Plugin{Spec: keelsonv1alpha1.PluginSpec{Kind: "dns", Shadow: &keelsonv1alpha1.PluginShadow{}}}
	setDefaults(p)
	if !*p.Spec.Enabled || !p.Spec.Source.BuiltIn || *p.Spec.Swap.WatchSeconds != 30 || p.Spec.Swap.Restart || !p.Spec.Shadow.Source.BuiltIn {
		t.Errorf("got %+v", p.Spec)
	}
	again := p.DeepCopy()
	again.Spec.Swap.WatchSeconds = new(int32(0))
	setDefaults(again)
	if *again.Spec.Swap.WatchSeconds != 0 {
		t.Error("a watch of 0 seconds was taken for none given")
	}
}

func TestRow(t *testing.T) {
	p := byPath()
	p.Name, p.Status.PID, p.Status.Revision, p.Status.Phase = "x", 7, "0123456789", keelsonv1alpha1.PluginRunning
	row := func() []any { return plugins.Row(p) }
	if got, want := len(row()), len(plugins.Columns); got != want {
		t.Fatalf("got %d cells, want %d", got, want)
	}
	at := slices.IndexFunc(plugins.Columns, func(c metav1.TableColumnDefinition) bool { return c.Name == "Swap" })
	if got := row()[at]; got != "<none>" {
		t.Errorf("swap: got %v", got)
	}
	p.Status.Candidate = &keelsonv1alpha1.PluginCandidateStatus{Revision: "aaaa", Phase: keelsonv1alpha1.PluginCandidateStandby}
	if got := row()[at]; got != "Standby aaaa" {
		t.Errorf("swap: got %v", got)
	}
}
