package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/registry/resource"
)

// The test data in testdata/upstream are objects, good and bad, in YAML, and
// beside them, in JSON, what a real kube-apiserver answers to them. With
//
//	go test ./core/registry -run Upstream -upstream KUBECONFIG
//
// the answers are taken anew from the kube-apiserver of that kubeconfig.
var upstream = flag.String("upstream", "", "kubeconfig of a kube-apiserver to take the expected answers from")

// upstreamCase is an object and what to make of it.
type upstreamCase struct {
	// Object is valid as it stands.
	Object map[string]any `json:"object"`
	// Create are objects made of it: what to change, by path. Null deletes.
	Create map[string]map[string]any `json:"create"`
	// Update changes the object after it was created.
	Update map[string]map[string]any `json:"update"`
	// Status changes it through the status subresource.
	Status map[string]map[string]any `json:"status"`
	// Before is created before, and deleted after.
	Before []map[string]any `json:"before"`
	// Name is unlike others where one object occurs twice.
	Name string `json:"name"`
}

// answer is what a server says to a request, without what differs from run to run.
type answer struct {
	Code    int              `json:"code"`
	Message string           `json:"message,omitempty"`
	Causes  []string         `json:"causes,omitempty"`
	Object  map[string]any   `json:"object,omitempty"`
	Columns []map[string]any `json:"columns,omitempty"`
	Cells   []any            `json:"cells,omitempty"`
	Warning []string         `json:"warning,omitempty"`
}

// readyAtOnce: upstream's controller looks at a range later.
const readyAtOnce = "a range is ready when it is stored"

// differences are the answers that are other than upstream's on purpose: file, then case.
var differences = map[string]map[string]string{
	"autoscaling": {
		"HorizontalPodAutoscaler v1: behavior in annotation": "rules in v1's annotation get the defaults that v2's have",
	},
	"networking": {
		"IPAddress":          "upstream's table has three cells under two columns",
		"ServiceCIDR":        readyAtOnce,
		"ServiceCIDR: dual":  readyAtOnce,
		"ServiceCIDR: huge":  readyAtOnce,
		"ServiceCIDR: small": readyAtOnce,
	},
}

// structs are values in messages that upstream prints by the names of its
// internal Go types; ours have those of the API.
var structs = regexp.MustCompile(`value: (\{.*\}|\[\{.*\}\])(: |$)`)

// created is a point of time in a table.
var created = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$`)

// asker sends requests to one server.
type asker struct {
	t      *testing.T
	host   string
	client *http.Client
	plural map[schema.GroupVersionKind]*schema.GroupVersionResource
	scoped map[schema.GroupVersionKind]bool // namespaced
}

func newAsker(t *testing.T, c *rest.Config) *asker {
	t.Helper()
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(d)
	if err != nil {
		t.Fatal(err)
	}
	a := &asker{t: t, host: strings.TrimSuffix(c.Host, "/"), client: client,
		plural: map[schema.GroupVersionKind]*schema.GroupVersionResource{}, scoped: map[schema.GroupVersionKind]bool{}}
	for _, g := range groups {
		for v, list := range g.VersionedResources {
			for _, r := range list {
				gv := schema.GroupVersion{Group: g.Group.Name, Version: v}
				if strings.Contains(r.Name, "/") {
					continue
				}
				gvr := gv.WithResource(r.Name)
				a.plural[gv.WithKind(r.Kind)], a.scoped[gv.WithKind(r.Kind)] = &gvr, r.Namespaced
			}
		}
	}
	return a
}

// path is where objects like this one live; empty if the server has no such kind.
func (a *asker) path(obj map[string]any) string {
	gv, err := schema.ParseGroupVersion(fmt.Sprint(obj["apiVersion"]))
	if err != nil {
		a.t.Fatal(err)
	}
	gvk := gv.WithKind(fmt.Sprint(obj["kind"]))
	r := a.plural[gvk]
	if r == nil {
		return ""
	}
	p := "/apis/" + gv.String()
	if gv.Group == "" {
		p = "/api/" + gv.Version
	}
	if a.scoped[gvk] {
		p += "/namespaces/default"
	}
	return p + "/" + r.Resource
}

func (a *asker) do(method, path string, body any, accept string) (code int, out map[string]any, warnings []string) {
	a.t.Helper()
	return a.send(method, path, asJSON, body, accept)
}

func (a *asker) send(method, path, contentType string, body any, accept string) (code int, out map[string]any, warnings []string) {
	a.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.host+path, bytes.NewReader(data))
	if a.t.Context().Err() != nil { // in a cleanup
		req, err = http.NewRequestWithContext(context.WithoutCancel(a.t.Context()), method, a.host+path, bytes.NewReader(data))
	}
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", accept)
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := json.Unmarshal(got, &out); err != nil {
		a.t.Fatalf("%s %s: %v in %.200s", method, path, err, got)
	}
	return resp.StatusCode, out, resp.Header.Values("Warning")
}

const (
	asJSON  = "application/json"
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
)

// ask sends the request and, if it is granted and table is set, once more for the table.
func (a *asker) ask(method, path string, body map[string]any, table bool) answer {
	a.t.Helper()
	code, out, warnings := a.do(method, path, body, asJSON)
	got := answer{Code: code, Warning: warnings}
	if out["kind"] == "Status" {
		got.Message = fmt.Sprint(out["message"])
		details, _ := out["details"].(map[string]any)
		causes, _ := details["causes"].([]any)
		for _, c := range causes {
			m, _ := c.(map[string]any)
			got.Causes = append(got.Causes, fmt.Sprintf("%v: %v", m["field"], structs.ReplaceAllString(fmt.Sprint(m["message"]), "value: {}$2")))
		}
		if len(got.Causes) > 0 {
			got.Message = "" // the causes in one sentence
		}
		slices.Sort(got.Causes)
		got.Causes = slices.Compact(got.Causes) // upstream says some twice
		return got
	}
	got.Object = trim(out)
	if table {
		code, out, _ := a.do(method, path, body, asTable)
		if code == http.StatusConflict { // somebody has changed it between the two requests
			return answer{Code: code}
		}
		defs, _ := out["columnDefinitions"].([]any)
		for _, d := range defs {
			m := d.(map[string]any)
			delete(m, "description")
			got.Columns = append(got.Columns, m)
		}
		if rows, _ := out["rows"].([]any); len(rows) > 0 {
			got.Cells, _ = rows[0].(map[string]any)["cells"].([]any)
		}
		for i, c := range got.Cells { // ages
			if s, ok := c.(string); ok && len(s) > 1 && len(s) < 5 && strings.HasSuffix(s, "s") && strings.Trim(s, "0123456789") == "s" {
				got.Cells[i] = "0s"
			} else if ok && created.MatchString(s) {
				got.Cells[i] = "now"
			}
		}
	}
	return got
}

// trim takes out of an object what is other each time.
func trim(obj map[string]any) map[string]any {
	meta, _ := obj["metadata"].(map[string]any)
	for _, k := range []string{"uid", "creationTimestamp", "managedFields", "resourceVersion"} {
		delete(meta, k)
	}
	if f, _ := meta["finalizers"].([]any); len(f) == 1 && (strings.HasSuffix(fmt.Sprint(f[0]), "-protection") || f[0] == resource.ServiceCIDRFinalizer) { // set by admission
		delete(meta, "finalizers")
	}
	if status, ok := obj["status"].(map[string]any); ok && len(status) == 0 { // as good as none, and new with some versions
		delete(obj, "status")
	}
	return obj
}

// change sets what is at the paths ("spec/rules/0/verbs") to the values.
func change(t *testing.T, obj map[string]any, set map[string]any) map[string]any {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(set)) {
		out = put(t, out, strings.Split(path, "/"), set[path])
	}
	return out.(map[string]any)
}

func put(t *testing.T, in any, path []string, v any) any {
	t.Helper()
	if len(path) == 0 {
		return v
	}
	key := strings.NewReplacer("~1", "/").Replace(path[0])
	if list, ok := in.([]any); ok {
		i, err := strconv.Atoi(key)
		if err != nil || i > len(list) {
			t.Fatalf("no place %s in a list of %d", key, len(list))
		}
		if i == len(list) {
			list = append(list, nil)
		}
		list[i] = put(t, list[i], path[1:], v)
		return list
	}
	m, ok := in.(map[string]any)
	if !ok {
		m = map[string]any{}
	}
	if len(path) == 1 && v == nil {
		delete(m, key)
		return m
	}
	m[key] = put(t, m[key], path[1:], v)
	return m
}

// run asks all of a case. Answers are named by kind and case.
func (a *asker) run(c upstreamCase, all map[string]answer) {
	a.t.Helper()
	name := fmt.Sprint(c.Object["kind"])
	if c.Name != "" {
		name += " " + c.Name
	}
	path := a.path(c.Object)
	if path == "" {
		return // not served
	}
	for _, obj := range c.Before {
		p := a.path(obj)
		if code, out, _ := a.do(http.MethodPost, p, obj, asJSON); code != http.StatusCreated && code != http.StatusConflict {
			a.t.Fatalf("%s: create what it needs: %v", name, out["message"])
		}
		defer a.remove(p, obj)
	}
	all[name] = a.ask(http.MethodPost, path+"?dryRun=All", c.Object, true)
	for _, what := range slices.Sorted(maps.Keys(c.Create)) {
		obj := change(a.t, c.Object, c.Create[what])
		got := a.ask(http.MethodPost, path+"?dryRun=All&fieldValidation=Ignore", obj, true)
		got.Columns = nil // as above
		all[name+": "+what] = got
	}
	if len(c.Update)+len(c.Status) == 0 {
		return
	}
	code, stored, _ := a.do(http.MethodPost, path, c.Object, asJSON)
	if code != http.StatusCreated {
		a.t.Fatalf("create %s: %v", name, stored["message"])
	}
	defer a.remove(path, c.Object)
	at := path + "/" + fmt.Sprint(stored["metadata"].(map[string]any)["name"])
	for _, what := range slices.Sorted(maps.Keys(c.Update)) {
		got := a.update(at, at, c.Update[what], false)
		delete(got.Object, "status") // controllers write it meanwhile
		all[name+" updated: "+what] = got
	}
	for _, what := range slices.Sorted(maps.Keys(c.Status)) {
		all[name+" status: "+what] = a.update(at, at+"/status", c.Status[what], true)
	}
}

// update changes what is stored, until nobody else has changed it meanwhile.
func (a *asker) update(at, through string, set map[string]any, table bool) (got answer) {
	a.t.Helper()
	for range 10 {
		_, stored, _ := a.do(http.MethodGet, at, nil, asJSON)
		delete(stored["metadata"].(map[string]any), "managedFields")
		got = a.ask(http.MethodPut, through+"?dryRun=All&fieldValidation=Ignore", change(a.t, stored, set), table)
		if got.Code != http.StatusConflict {
			break
		}
	}
	return got
}

// remove deletes an object, whatever its finalizers say.
func (a *asker) remove(path string, obj map[string]any) {
	at := path + "/" + fmt.Sprint(obj["metadata"].(map[string]any)["name"])
	a.do(http.MethodDelete, at, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, asJSON)
	code, out, _ := a.do(http.MethodGet, at, nil, asJSON)
	if meta, ok := out["metadata"].(map[string]any); ok && code == http.StatusOK && meta["finalizers"] != nil {
		delete(meta, "finalizers")
		a.do(http.MethodPut, at, out, asJSON)
	}
}

// TestUpstream compares answers with upstream's: defaults, tables and the
// faults found in objects, field by field.
func TestUpstream(t *testing.T) {
	files, err := filepath.Glob("testdata/upstream/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	ours := newAsker(t, start(t).config(t, "admin", "system:masters"))
	for _, file := range files {
		base := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(base, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var cases []upstreamCase
			if err := yaml.UnmarshalStrict(data, &cases); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".json"
			if *upstream != "" {
				record(t, golden, cases)
			}
			want, got := map[string]answer{}, map[string]answer{}
			if data, err = os.ReadFile(golden); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
			asked := *ours
			asked.t = t
			for _, c := range cases {
				asked.run(c, got)
			}
			compare(t, base, want, normal(t, got))
		})
	}
}

// answersOf reads what upstream answered from a golden file, which is taken anew with -upstream.
func answersOf[T any](t *testing.T, golden string, collect func(*asker) T) T {
	t.Helper()
	var want T
	if *upstream != "" {
		config, err := clientcmd.BuildConfigFromFlags("", *upstream)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(collect(newAsker(t, config)), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// record takes the answers from the server of -upstream.
func record(t *testing.T, golden string, cases []upstreamCase) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", *upstream)
	if err != nil {
		t.Fatal(err)
	}
	theirs := newAsker(t, config)
	all := map[string]answer{}
	for _, c := range cases {
		theirs.run(c, all)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(golden, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// normal brings answers in the form that they have when read from a file.
func normal(t *testing.T, in map[string]answer) map[string]answer {
	t.Helper()
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]answer{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// differs tells in few lines how the answer is other than upstream's.
func (w answer) differs(g answer) string {
	if w.Code == g.Code && slices.Equal(w.Causes, g.Causes) {
		return cmp.Diff(w, g)
	}
	out := fmt.Sprintf("- %d %s\n+ %d %s\n", w.Code, w.Message, g.Code, g.Message)
	for _, c := range w.Causes {
		if !slices.Contains(g.Causes, c) {
			out += "-   " + c + "\n"
		}
	}
	for _, c := range g.Causes {
		if !slices.Contains(w.Causes, c) {
			out += "+   " + c + "\n"
		}
	}
	return out
}

func compare(t *testing.T, file string, want, got map[string]answer) {
	t.Helper()
	known := differences[file]
	for name, w := range want {
		g, ok := got[name]
		diff := "not asked any more; take the answers anew with -upstream"
		if ok {
			if w.Cells == nil { // upstream prints no table there
				g.Columns, g.Cells = nil, nil
			}
			diff = w.differs(g)
		}
		switch reason := known[name]; {
		case reason != "" && diff == "":
			t.Errorf("%s is as upstream's now; take it out of the differences (%s)", name, reason)
		case reason == "" && diff != "":
			t.Errorf("%s (-upstream +ours):\n%s", name, diff)
		}
	}
	for name := range known {
		if _, ok := want[name]; !ok {
			t.Errorf("a difference is named for %q, which is not asked", name)
		}
	}
}
