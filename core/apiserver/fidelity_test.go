package apiserver

import (
	"bytes"
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
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"keelson.dev/keelson/core/etcd"
)

var update = flag.Bool("update", false, "write the golden files of TestFidelity anew, from the API server of the kubeconfig KEELSON_ORACLE")

const fidelityDir = "../registry/testdata/fidelity"

// corpus is a file of cases for one resource. A case is a set of changes to
// an object, by path ("spec/containers/0/image"); null removes.
type corpus struct {
	// Resource is the path of the resource: "api/v1/pods".
	Resource string
	Cluster  bool
	// Gates are features that upstream has to be started with to answer so;
	// then KEELSON_ORACLE_GATES has to be set to write the golden file.
	Gates []string
	Base  map[string]any
	// Create are created as a dry run.
	Create map[string]map[string]any
	Update []updates
}

// updates are dry runs of updates of one object.
type updates struct {
	Name string
	// From makes the object of the base, Status is then written to its status.
	From, Status map[string]any
	// Approval is written through the subresource approval before.
	Approval map[string]any
	// Sub is the subresource to update, empty for the object itself.
	Sub   string
	Cases map[string]map[string]any
	// Table asks for the object's table too.
	Table bool
}

// fidelityServer is an API server that the corpora are sent to.
type fidelityServer struct {
	client *http.Client
	host   string
	// compact drops all history of the server's store.
	compact func(*testing.T)
}

// TestFidelity sends the corpora to the server and compares the answers with
// upstream's, which lie in the golden files. To make those anew:
//
//	KEELSON_ORACLE=kubeconfig go test -run TestFidelity ./core/apiserver -update
func TestFidelity(t *testing.T) {
	s := fidelityTarget(t)
	s.prepare(t)
	files, err := filepath.Glob(filepath.Join(fidelityDir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpora in %s: %v", fidelityDir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			var c corpus
			readYAML(t, file, &c)
			if *update && len(c.Gates) > 0 && os.Getenv("KEELSON_ORACLE_GATES") == "" {
				t.Logf("left as it is: upstream needs the features %v", c.Gates)
				return
			}
			got := s.run(t, &c)
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, formatAnswers(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			compareAnswers(t, golden, got)
		})
	}
}

// fidelityTarget is our server, or upstream's to write golden files.
func fidelityTarget(t *testing.T) *fidelityServer {
	if !*update {
		h := start(t)
		s := newFidelityServer(t, h.as(t, "admin", "system:masters"))
		s.compact = func(t *testing.T) {
			if err := compactNow(t.Context(), h.db); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	c, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KEELSON_ORACLE"))
	if err != nil {
		t.Fatal(err)
	}
	s := newFidelityServer(t, c)
	s.compact = compactOracle
	return s
}

// compactOracle drops the history of the etcd that KEELSON_ORACLE_ETCD names.
func compactOracle(t *testing.T) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv("KEELSON_ORACLE_ETCD")}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now, err := c.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), now.Header.Revision); err != nil {
		t.Fatal(err)
	}
}

func newFidelityServer(t *testing.T, c *rest.Config) *fidelityServer {
	c.QPS = -1
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	return &fidelityServer{client: client, host: c.Host}
}

// prepare makes the namespace and what pods need in it, and sees to their end.
func (s *fidelityServer) prepare(t *testing.T) {
	for path, body := range map[string]string{
		"/api/v1/namespaces":                          `{"metadata":{"name":"fidelity"}}`,
		"/api/v1/namespaces/fidelity/serviceaccounts": `{"metadata":{"name":"default"}}`,
	} {
		for range 2 { // the order of a map is any
			s.do(t, http.MethodPost, path, []byte(body), nil)
		}
	}
	s.do(t, http.MethodPost, "/api/v1/namespaces/fidelity/serviceaccounts", []byte(`{"metadata":{"name":"default"}}`), nil)
	t.Cleanup(func() {
		s.do(t, http.MethodDelete, "/api/v1/namespaces/fidelity/serviceaccounts/default", nil, nil)
		s.do(t, http.MethodDelete, "/api/v1/namespaces/fidelity", nil, nil)
		s.do(t, http.MethodPut, "/api/v1/namespaces/fidelity/finalize", []byte(`{"metadata":{"name":"fidelity"},"spec":{"finalizers":[]}}`), nil)
	})
}

// run gives the answers to all cases of a corpus, by case.
func (s *fidelityServer) run(t *testing.T, c *corpus) map[string]string {
	all := map[string]string{}
	prefix, plural := c.Resource[:strings.LastIndex(c.Resource, "/")], c.Resource[strings.LastIndex(c.Resource, "/")+1:]
	path := "/" + prefix + "/namespaces/fidelity/" + plural
	if c.Cluster {
		path = "/" + c.Resource
	}
	sample := s.send(t, http.MethodPost, path+"?dryRun=All", c.Base)
	all["create/0 base"] = sample.text(nil)
	for name, changes := range c.Create {
		r := s.send(t, http.MethodPost, path+"?dryRun=All", withChanges(t, c.Base, changes))
		all["create/"+name] = r.text(sample.object)
	}
	for i, u := range c.Update {
		s.runUpdates(t, c, u, path, fmt.Sprintf("update %d %s/", i, u.Name), all)
	}
	return all
}

func (s *fidelityServer) runUpdates(t *testing.T, c *corpus, u updates, path, prefix string, all map[string]string) {
	made := s.send(t, http.MethodPost, path, withChanges(t, c.Base, u.From))
	all[prefix+"0 from"] = made.text(made.object)
	name, _, _ := strings.Cut(fmt.Sprint(c.Base["metadata"].(map[string]any)["name"]), " ")
	if n, ok := u.From["metadata/name"]; ok {
		name = n.(string)
	}
	one := path + "/" + name
	defer func() {
		s.send(t, http.MethodPatch, one, map[string]any{"metadata": map[string]any{"finalizers": nil}})
		s.send(t, http.MethodDelete, one+"?gracePeriodSeconds=0", nil)
	}()
	if made.code != http.StatusCreated {
		return
	}
	if u.Approval != nil {
		made = s.send(t, http.MethodPut, one+"/approval", withChanges(t, made.raw, u.Approval))
		all[prefix+"0 approval"] = made.text(made.object)
	}
	if u.Status != nil {
		r := s.send(t, http.MethodPut, one+"/status", withChanges(t, made.raw, u.Status))
		all[prefix+"0 status"] = r.text(made.object)
	}
	was := s.send(t, http.MethodGet, one, nil)
	if u.Table {
		all[prefix+"0 table"] = s.table(t, one)
	}
	target := one
	if u.Sub != "" {
		target += "/" + u.Sub
	}
	for name, changes := range u.Cases {
		r := s.send(t, http.MethodPut, target+"?dryRun=All", withChanges(t, was.raw, changes))
		all[prefix+name] = r.text(was.object)
	}
}

// table is the server's table of an object, all columns.
func (s *fidelityServer) table(t *testing.T, path string) string {
	code, _, body := s.do(t, http.MethodGet, path+"?includeObject=None", nil,
		http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io"}})
	var table struct {
		ColumnDefinitions []json.RawMessage
		Rows              []struct{ Cells []json.RawMessage }
	}
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintln(code)
	for _, c := range table.ColumnDefinitions {
		out += about.ReplaceAllString(string(c), `"description":""`) + "\n"
	}
	for _, r := range table.Rows {
		for _, c := range r.Cells {
			out += mask(ageCell.ReplaceAllString(string(c), `"AGE"`)) + " "
		}
		out += "\n"
	}
	return out
}

// do sends a request and reads all of the answer.
func (s *fidelityServer) do(t *testing.T, method, path string, body []byte, header http.Header) (int, http.Header, []byte) {
	req, err := http.NewRequest(method, s.host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "fidelity/1.0")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	maps.Copy(req.Header, header)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, answer
}

func (s *fidelityServer) send(t *testing.T, method, path string, object map[string]any) answer {
	var body []byte
	if object != nil {
		var err error
		if body, err = json.Marshal(object); err != nil {
			t.Fatal(err)
		}
	}
	code, header, got := s.do(t, method, path, body, nil)
	a := answer{code: code, warnings: header.Values("Warning")}
	if err := json.Unmarshal(got, &a.raw); err != nil {
		a.raw = map[string]any{"text": string(got)}
	}
	a.object = flatten(a.raw)
	return a
}

// onEtcd are answers that differ on an etcd only.
var onEtcd = map[string]bool{
	"headers/livez etcd": true, // a store that runs elsewhere is no part of /livez
}

// testPrefix is that of a test's objects in an etcd, see openTestDatastore.
var testPrefix = regexp.MustCompile("/test/[0-9a-f]{16}/")

func likeRegistry(answer string) string {
	return testPrefix.ReplaceAllString(answer, etcd.DefaultPrefix+"/")
}

// compareAnswers checks the answers against a golden file. Differences on
// purpose have to be there, and all others must not.
func compareAnswers(t *testing.T, golden string, got map[string]string) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	want := parseAnswers(about.ReplaceAllString(string(text), `"description":""`))
	gaps := readGaps(t)
	corpusName := strings.TrimSuffix(filepath.Base(golden), ".golden")
	for _, name := range slices.Sorted(maps.Keys(got)) {
		t.Run(strings.ReplaceAll(name, "/", ": "), func(t *testing.T) {
			upstream, ok := want[name]
			if !ok {
				t.Fatal("no golden answer: run with -update")
			}
			id := corpusName + "/" + name
			reason, differs := deliberate[id]
			if !differs && gaps[id] {
				reason, differs = "a gap, to be taken out of gaps.txt", true
			}
			diff := lineDiff(upstream, strings.TrimSpace(likeRegistry(got[name])))
			switch {
			case testEtcd != nil && (differs || onEtcd[id]): // what is listed is about the server's own store
			case differs && diff == "":
				t.Errorf("like upstream's, but listed as different: %s", reason)
			case !differs && diff != "":
				t.Errorf("%s\n-upstream +ours:\n%s", id, diff)
			}
		})
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("golden answer to %q, which is no case any more: run with -update", name)
		}
	}
}

// readGaps lists the cases that we do not answer like upstream yet.
func readGaps(t *testing.T) map[string]bool {
	text, err := os.ReadFile(filepath.Join(fidelityDir, "gaps.txt"))
	if err != nil {
		t.Fatal(err)
	}
	gaps := map[string]bool{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if line != "" && !strings.HasPrefix(line, "#") {
			gaps[line] = true
		}
	}
	return gaps
}

// lineDiff gives the lines that only one of two answers has.
func lineDiff(upstream, ours string) string {
	a, b := strings.Split(upstream, "\n"), strings.Split(ours, "\n")
	var diff strings.Builder
	for _, line := range a {
		if !slices.Contains(b, line) {
			diff.WriteString("-" + line + "\n")
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			diff.WriteString("+" + line + "\n")
		}
	}
	if diff.Len() == 0 && upstream != ours {
		return "the same lines in another order or number\n"
	}
	return diff.String()
}

func formatAnswers(all map[string]string) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "== %s\n%s\n", name, strings.TrimSpace(all[name]))
	}
	return b.Bytes()
}

func parseAnswers(text string) map[string]string {
	all := map[string]string{}
	for _, part := range strings.Split("\n"+text, "\n== ")[1:] {
		name, answer, _ := strings.Cut(part, "\n")
		all[name] = strings.TrimSpace(answer)
	}
	return all
}

func readYAML(t *testing.T, file string, into any) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}
