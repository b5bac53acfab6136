package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"keelson.dev/keelson/core/pluginverify"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// fakeAPI keeps plugins as the API does, and does with a changed one what react says.
type fakeAPI struct {
	t     *testing.T
	react func(p *v1alpha1.Plugin)
	url   string

	mu      sync.Mutex // guards all below
	plugins map[string]*v1alpha1.Plugin
	swaps   []v1alpha1.PluginSwap
}

func newFakeAPI(t *testing.T, plugins ...*v1alpha1.Plugin) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t, plugins: map[string]*v1alpha1.Plugin{}, react: func(*v1alpha1.Plugin) {}}
	for _, p := range plugins {
		p.Generation = 1
		f.plugins[p.Name] = p
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	const prefix = "/apis/keelson.dev/v1alpha1/plugins"
	name, sub, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, prefix), "/"), "/")
	p := f.plugins[name]
	switch {
	case !strings.HasPrefix(r.URL.Path, prefix) || name != "" && p == nil:
		answer(w, http.StatusNotFound, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404, Message: name + " not found"})
	case name == "" && r.Method == http.MethodGet:
		list := &v1alpha1.PluginList{}
		for _, p := range f.plugins {
			list.Items = append(list.Items, *p)
		}
		answer(w, http.StatusOK, list)
	case sub == "swap":
		var body v1alpha1.PluginSwap
		f.read(r, &body)
		f.swaps = append(f.swaps, body)
		f.react(p)
		answer(w, http.StatusCreated, &metav1.Status{Status: "Success"})
	case sub == "comparison":
		answer(w, http.StatusOK, &v1alpha1.PluginComparison{Active: "aaa", Shadow: "bbb", Same: 7, Different: 1, Dropped: 3, Message: "one eye is shut",
			Differences: []v1alpha1.PluginDifference{{Key: "uid", Subject: "default/web", Active: "node-1", Shadow: "unschedulable", ShadowReason: "no room"}}})
	case sub == "log":
		_, _ = w.Write([]byte("the last line\n"))
	case r.Method == http.MethodPut || r.Method == http.MethodPost:
		var body v1alpha1.Plugin
		f.read(r, &body)
		if p == nil {
			p = &v1alpha1.Plugin{ObjectMeta: body.ObjectMeta}
			f.plugins[body.Name] = p
		}
		if !equality.Semantic.DeepEqual(p.Spec, body.Spec) {
			p.Spec = body.Spec
			p.Generation++
			f.react(p)
		}
		answer(w, http.StatusOK, p)
	default:
		answer(w, http.StatusOK, p)
	}
}

func (f *fakeAPI) read(r *http.Request, into any) {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		f.t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
}

func answer(w http.ResponseWriter, code int, obj any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(obj)
}

// run runs keelson plugins with args.
func (f *fakeAPI) run(args ...string) (string, error) {
	var out bytes.Buffer
	config := genericclioptions.NewConfigFlags(false)
	config.APIServer = &f.url
	cmd := newPluginsCommand(genericiooptions.IOStreams{In: strings.NewReader("n\n"), Out: &out, ErrOut: &out}, config)
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage = true
	err := cmd.ExecuteContext(f.t.Context())
	return out.String(), err
}

// swapped is a plugin that was swapped once.
func swapped() *v1alpha1.Plugin {
	gap := int64(7)
	spec := func(path string) *v1alpha1.PluginRevisionSpec {
		return &v1alpha1.PluginRevisionSpec{Kind: "scheduler", Source: v1alpha1.PluginSource{Path: path, SHA256: strings.Repeat("a", 64)}}
	}
	return &v1alpha1.Plugin{
		ObjectMeta: metav1.ObjectMeta{Name: "scheduler"},
		Spec:       v1alpha1.PluginSpec{Kind: "scheduler", Source: v1alpha1.PluginSource{Path: "/p/new", SHA256: strings.Repeat("b", 64)}},
		Status: v1alpha1.PluginStatus{
			ObservedGeneration: 1, Phase: v1alpha1.PluginRunning, PID: 42, Version: "0.1.0", Revision: "bbbbbbbbbb",
			Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue}, {Type: "Progressing", Status: metav1.ConditionFalse, Reason: "Complete"}},
			History: []v1alpha1.PluginRevision{
				{Revision: "bbbbbbbbbb", Outcome: v1alpha1.PluginOutcomeActive, GapMilliseconds: &gap, Spec: spec("/p/new")},
				{Revision: "cccccccccc", Outcome: v1alpha1.PluginOutcomeRefused, Message: "no good", Spec: spec("/p/bad")},
				{Revision: "aaaaaaaaaa", Outcome: v1alpha1.PluginOutcomeReplaced, Spec: spec("/p/old")},
			},
		},
	}
}

func has(t *testing.T, out string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestPluginsLook(t *testing.T) {
	f := newFakeAPI(t, swapped())
	for _, c := range []struct {
		line  string
		wants []string
	}{
		{"list", []string{"NAME", "REVISION", "CANDIDATE", "GAP", "bbbbbbbbbb", "7ms", "42"}},
		{"list -o wide", []string{"VERSION", "/p/new", "0.1.0"}},
		{"list -o name", []string{"scheduler"}},
		{"list -o jsonpath={.items[0].status.revision}", []string{"bbbbbbbbbb"}},
		{"history scheduler", []string{"OUTCOME", "Active", "Refused", "Replaced", "7ms", "no good"}},
		{"history scheduler -o wide", []string{"/p/old"}},
		{"inspect scheduler", []string{"Revision:", "bbbbbbbbbb", "Conditions:", "Progressing", "Complete", "Spec:", "path: /p/new", "accepted: none", "History:", "the last line"}},
		{"inspect scheduler -o yaml", []string{"kind: Plugin", "revision: bbbbbbbbbb"}},
		{"compare scheduler", []string{"7 the same, 1 different", "3 dropped", "Note: one eye is shut", "default/web", "node-1", "unschedulable (no room)"}},
		{"logs scheduler --tail=1", []string{"the last line"}},
	} {
		t.Run(c.line, func(t *testing.T) {
			out, err := f.run(strings.Fields(c.line)...)
			if err != nil {
				t.Fatal(err)
			}
			has(t, out, c.wants...)
		})
	}
	if out, err := f.run("inspect", "none"); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a plugin that there is not: %v\n%s", err, out)
	}
}

// TestPluginsComplete: the shell gets the names.
func TestPluginsComplete(t *testing.T) {
	out, err := newFakeAPI(t, swapped()).run("__complete", "swap", "")
	if err != nil {
		t.Fatal(err)
	}
	has(t, out, "scheduler\tscheduler, Running", ":4") // 4: no file names
}

// TestPluginsHelp: each command has a line, a text and an example.
func TestPluginsHelp(t *testing.T) {
	cmd := newPluginsCommand(genericiooptions.NewTestIOStreamsDiscard(), genericclioptions.NewConfigFlags(false))
	for _, sub := range cmd.Commands() {
		if sub.Short == "" || sub.Example == "" {
			t.Errorf("keelson plugins %s has no short text or no example", sub.Name())
		}
	}
	if len(cmd.Commands()) < 14 {
		t.Errorf("%d commands, want 14", len(cmd.Commands()))
	}
}

func TestPluginsEnable(t *testing.T) {
	f := newFakeAPI(t, swapped())
	for _, c := range []struct{ verb, want string }{
		{"enable", "is already enabled"}, {"disable", "is disabled"}, {"disable", "is already disabled"}, {"enable", "is enabled"},
	} {
		out, err := f.run(c.verb, "scheduler")
		if err != nil {
			t.Fatal(err)
		}
		has(t, out, c.want)
	}
	if e := f.plugins["scheduler"].Spec.Enabled; e == nil || !*e {
		t.Error("it is not enabled at the end")
	}
}

// becomes makes a changed plugin's status that of a swap which ended so.
func becomes(status metav1.ConditionStatus, reason, message string) func(*v1alpha1.Plugin) {
	return func(p *v1alpha1.Plugin) {
		p.Status.ObservedGeneration = p.Generation
		p.Status.Conditions[1] = metav1.Condition{Type: "Progressing", Status: status, Reason: reason, Message: message}
	}
}

func TestPluginsSwapConfig(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("schedulerName: mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, args string
		react      func(*v1alpha1.Plugin)
		want, err  string
	}{
		{"takes over", "", becomes(metav1.ConditionTrue, "Watching", ""), "revision bbbbbbbbbb is active, gap 7 ms", ""},
		{"without a watch period", "", becomes(metav1.ConditionFalse, "Complete", ""), "revision bbbbbbbbbb is active, gap 7 ms", ""},
		{"is rolled back", "", becomes(metav1.ConditionFalse, "RolledBack", "it died"), "rolledback: it died", "was not swapped"},
		{"is refused", "", becomes(metav1.ConditionFalse, "Refused", "bad field"), "refused: bad field", "was not swapped"},
		{"is not waited for", "--timeout=0", func(*v1alpha1.Plugin) {}, "changed", ""},
		{"never ends", "--timeout=300ms", becomes(metav1.ConditionTrue, "Starting", "waits for x"), "starting waits for x", "not known after 300ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeAPI(t, swapped())
			f.react = c.react
			out, err := f.run(append([]string{"swap", "scheduler", "--config", config, "--arg=-v", "--watch=5s"}, strings.Fields(c.args)...)...)
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
			has(t, out, c.want)
			s := f.plugins["scheduler"].Spec
			if s.Config == nil || string(s.Config.Raw) != `{"schedulerName":"mine"}` || len(s.Args) != 1 || *s.Swap.WatchSeconds != 5 {
				t.Errorf("spec: %+v", s)
			}
		})
	}
}

func TestPluginsSwapWrong(t *testing.T) {
	f := newFakeAPI(t, swapped())
	for _, c := range []struct{ line, want string }{
		{"swap scheduler", "say what to swap in"},
		{"swap scheduler --path=/no/such/file", "no such file"},
		{"swap scheduler --path=/x --built-in", "built-in path"},
		{"swap scheduler --config=/no/such/file", "--config"},
		{"swap none --built-in", "not found"},
		{"rollback scheduler --to dddddddddd", "aaaaaaaaaa"},
		{"swap", "accepts 1 arg"},
	} {
		if out, err := f.run(strings.Fields(c.line)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q\n%s", c.line, err, c.want, out)
		}
	}
}

func TestPluginsSwapAgain(t *testing.T) {
	f := newFakeAPI(t, swapped())
	if _, err := f.run("swap", "scheduler", "--again"); err != nil {
		t.Fatal(err)
	}
	if len(f.swaps) != 1 || !f.swaps[0].Again {
		t.Errorf("asked for %+v, want again", f.swaps)
	}
}

func TestPluginsRollback(t *testing.T) {
	for _, c := range []struct{ args, want string }{{"", "/p/old"}, {"--to=cccccccccc", "/p/bad"}} {
		f := newFakeAPI(t, swapped())
		f.react = becomes(metav1.ConditionTrue, "Watching", "")
		out, err := f.run(append([]string{"rollback", "scheduler"}, strings.Fields(c.args)...)...)
		if err != nil {
			t.Fatal(err)
		}
		has(t, out, c.want, "is active")
		if got := f.plugins["scheduler"].Spec.Source.Path; got != c.want {
			t.Errorf("path: got %s, want %s", got, c.want)
		}
	}
}

func TestBeyond(t *testing.T) {
	rule := func(verbs ...string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: verbs, APIGroups: []string{""}, Resources: []string{"pods"}}}
	}
	if more := beyond(rule("get"), rule("get", "list")); len(more) != 0 {
		t.Errorf("got %v beyond, want none", more)
	}
	if more := beyond(rule("get", "patch"), rule("get")); len(more) != 1 || more[0].Verbs[0] != "patch" {
		t.Errorf("got %v beyond, want patch", more)
	}
}

func TestCopyProgram(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := pluginverify.Sum(from)
	if err != nil {
		t.Fatal(err)
	}
	to, err := copyProgram(from, filepath.Join(dir, "plugins.d"), "mine", sum)
	if err != nil || filepath.Base(to) != "mine-"+sum[:12] {
		t.Fatalf("got %s, %v", to, err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the copy: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "plugins.d", ".new-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	// Uninstall removes the copy, and nothing else.
	other := filepath.Join(dir, "plugins.d", "mine-0123456789ab")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false} { // whether the folder is still there
		if err := removeCopies(filepath.Join(dir, "plugins.d")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(to); err == nil {
			t.Error("the copy is still there")
		}
		if _, err := os.Stat(filepath.Dir(other)); (err == nil) != want {
			t.Errorf("the folder: %v, want it there: %t", err, want)
		}
		_ = os.Remove(other)
	}
}
