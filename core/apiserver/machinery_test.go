package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// machineryDir has the corpora of requests as they go over the wire.
const machineryDir = fidelityDir + "/machinery"

// step is one request of a sequence.
type step struct {
	Name string
	// Do is method and path. In it and in the body, $ns is the path of the
	// namespace, $apps that of its apps/v1 resources, and $NAME what was kept.
	Do string
	// Type and Accept are headers: by default application/json, for a PATCH a merge patch.
	Type, Accept string
	Header       map[string]string
	// Body is sent as JSON, a string as it is.
	Body any
	// Keep takes values from the answer, by path: {uid: metadata/uid}.
	Keep map[string]string
	// Managed shows managedFields too.
	Managed bool
	// Only shows the leaves under these paths; [headers] shows nothing of the body.
	Only []string
	// Quiet is for what only prepares or cleans up.
	Quiet bool
	// Until repeats a request until the answer has these values, by path or "header:NAME".
	Until map[string]string
	// Headers are those of the answer to show besides the usual ones.
	Headers []string
}

var (
	versionsIn = regexp.MustCompile(`(resource version: |resourceVersion[\\":= ]+|Limit: |\()\d+\b`)
	ownAddress = regexp.MustCompile(`serverAddress: .*`)
	gitVersion = regexp.MustCompile(`^(major|minor|git.*|build.*|go.*|compiler|platform|emulation.*|minCompat.*) = .*`)
	tokenText  = regexp.MustCompile(`eyJ[\w.-]{20,}`)
	randomName = regexp.MustCompile(`\bgen-[a-z0-9]{5}\b`)
	hashText   = regexp.MustCompile(`\b[0-9A-F]{64,}\b`)
	wireTime   = regexp.MustCompile(`\b2[01]\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// TestMachinery sends sequences of requests and compares what comes over the
// wire with upstream's answers: code, headers, Status, shape of the body. To
// make the golden files anew: as with TestFidelity.
func TestMachinery(t *testing.T) {
	s := fidelityTarget(t)
	s.prepare(t)
	files, err := filepath.Glob(filepath.Join(machineryDir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpora in %s: %v", machineryDir, err)
	}
	for _, file := range files {
		if testEtcd != nil && filepath.Base(file) == "expired.yaml" {
			continue // watch caches know some history that the etcd has dropped
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			var steps []step
			readYAML(t, file, &steps)
			s.clear(t)
			got := s.runSteps(t, steps)
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

// clear removes what a file of steps leaves.
func (s *fidelityServer) clear(t *testing.T) {
	for _, path := range []string{
		"/api/v1/namespaces/fidelity/configmaps", "/api/v1/namespaces/fidelity/pods", "/api/v1/namespaces/fidelity/replicationcontrollers",
		"/apis/apps/v1/namespaces/fidelity/deployments", "/apis/batch/v1/namespaces/fidelity/jobs", "/apis/policy/v1/namespaces/fidelity/poddisruptionbudgets",
	} {
		s.do(t, http.MethodDelete, path+"?propagationPolicy=Background&gracePeriodSeconds=0", nil, nil)
	}
	for _, name := range []string{"ap", "missing", "prox"} {
		s.do(t, http.MethodDelete, "/api/v1/namespaces/fidelity/services/"+name, nil, nil)
	}
	s.do(t, http.MethodDelete, "/api/v1/namespaces/fidelity/configmaps/x", nil, nil)
}

func (s *fidelityServer) runSteps(t *testing.T, steps []step) map[string]string {
	all := map[string]string{}
	var mu sync.Mutex // over all
	var aside sync.WaitGroup
	kept := paths()
	for _, st := range steps {
		method, path, _ := strings.Cut(fill(st.Do, kept), " ")
		header := http.Header{"Accept": {"application/json"}}
		for k, v := range st.Header {
			header.Set(k, fill(v, kept))
		}
		if st.Accept != "" {
			header.Set("Accept", st.Accept)
		}
		if st.Type != "" {
			header.Set("Content-Type", st.Type)
		}
		if strings.Contains(path, "timeoutSeconds=1") { // watches, all at once
			aside.Go(func() {
				code, answered, body := s.do(t, method, path, nil, header)
				mu.Lock()
				defer mu.Unlock()
				all[st.Name] = wireText(st, code, answered, body)
			})
			continue
		}
		if method != http.MethodGet {
			aside.Wait()
		}
		if method == "COMPACT" {
			s.compact(t)
			continue
		}
		code, answered, body := s.do(t, method, path, wireBody(t, st.Body, kept), header)
		if st.Until != nil {
			for end, tick := time.Now().Add(time.Minute), time.NewTicker(20*time.Millisecond); !holds(answered, body, st.Until); <-tick.C {
				if time.Now().After(end) {
					t.Fatalf("%s: still not %v after a minute: %s", st.Name, st.Until, body)
				}
				code, answered, body = s.do(t, method, path, wireBody(t, st.Body, kept), header)
			}
		}
		for name, at := range st.Keep {
			if h, ok := strings.CutPrefix(at, "header:"); ok {
				kept["$"+name] = answered.Get(h)
				continue
			}
			kept["$"+name] = leaf(t, st.Name, body, at)
		}
		if st.Quiet {
			continue
		}
		mu.Lock()
		if _, twice := all[st.Name]; twice {
			t.Errorf("two steps with the name %q", st.Name)
		}
		all[st.Name] = wireText(st, code, answered, body)
		mu.Unlock()
	}
	aside.Wait()
	return all
}

// paths are what corpora call paths by.
func paths() map[string]string {
	const policies = "/apis/admissionregistration.k8s.io/v1/"
	return map[string]string{
		"$ns": "/api/v1/namespaces/fidelity", "$apps": "/apis/apps/v1/namespaces/fidelity",
		"$CRDS": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "$W": "/apis/fidelity.example/v1/namespaces/fidelity/widgets",
		"$VAP": policies + "validatingadmissionpolicies", "$VAPB": policies + "validatingadmissionpolicybindings",
		"$MAP": policies + "mutatingadmissionpolicies", "$MAPB": policies + "mutatingadmissionpolicybindings",
		"$VWC": policies + "validatingwebhookconfigurations", "$MWC": policies + "mutatingwebhookconfigurations",
		"$PLC": "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "$FS": "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
	}
}

func fill(s string, kept map[string]string) string {
	for _, k := range slices.Backward(slices.Sorted(maps.Keys(kept))) { // longer names first
		s = strings.ReplaceAll(s, k, kept[k])
	}
	return s
}

func wireBody(t *testing.T, body any, kept map[string]string) []byte {
	switch body := body.(type) {
	case nil:
		return nil
	case string:
		return []byte(fill(body, kept))
	}
	text, err := json.Marshal(expand(body))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(fill(string(text), kept))
}

// leaf is the value at a path of an answer.
func leaf(t *testing.T, step string, body []byte, path string) string {
	at := valueAt(body, path)
	if at == nil {
		t.Errorf("%s: no %s in %s", step, path, body)
	}
	return fmt.Sprint(at)
}

func valueAt(body []byte, path string) any {
	var at any
	_ = json.Unmarshal(body, &at)
	for key := range strings.SplitSeq(path, "/") {
		switch v := at.(type) {
		case map[string]any:
			at = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(v) {
				return nil
			}
			at = v[i]
		default:
			return nil
		}
	}
	return at
}

// holds tells whether an answer has all the values; "+" is any value, "-" none.
func holds(header http.Header, body []byte, values map[string]string) bool {
	for path, want := range values {
		got := ""
		if h, ok := strings.CutPrefix(path, "header:"); ok {
			got = header.Get(h)
		} else if v := valueAt(body, path); v != nil {
			got = fmt.Sprint(v)
		}
		if got != want && (want != "+" || got == "") && (want != "-" || got != "") {
			return false
		}
	}
	return true
}

// wireText is an answer in lines: code, headers, then what the body says.
func wireText(st step, code int, header http.Header, body []byte) string {
	lines := []string{fmt.Sprint(code, " ", header.Get("Content-Type"))}
	for _, name := range append([]string{"Allow", "Retry-After", "Location", "Accept-Patch", "Www-Authenticate"}, st.Headers...) {
		if v, ok := header[name]; ok {
			lines = append(lines, name+": "+strings.Join(v, " | "))
		}
	}
	warnings := slices.Clone(header.Values("Warning"))
	slices.Sort(warnings)
	for _, w := range warnings {
		lines = append(lines, "Warning: "+w)
	}
	method, _, _ := strings.Cut(st.Do, " ")
	if method != http.MethodHead {
		lines = append(lines, bodyText(st, body)...)
	}
	for i := range lines {
		lines[i] = wireMask(lines[i])
	}
	return strings.Join(lines, "\n")
}

func wireMask(s string) string {
	s = versionsIn.ReplaceAllString(s, "${1}N")
	s = ownAddress.ReplaceAllString(s, "serverAddress: ADDRESS")
	s = tokenText.ReplaceAllString(s, "TOKEN")
	s = randomName.ReplaceAllString(s, "gen-NAME")
	s = wireTime.ReplaceAllString(s, "TIME")
	s = gitVersion.ReplaceAllString(s, "$1")
	s = hashText.ReplaceAllString(s, "HASH")
	return mask(s)
}

func bodyText(st step, body []byte) []string {
	switch {
	case slices.Equal(st.Only, []string{"headers"}):
		return nil
	case bytes.HasPrefix(body, []byte("\x1f\x8b")):
		return []string{"gzip"}
	case bytes.HasPrefix(body, []byte("k8s\x00")):
		return []string{"protobuf"}
	case bytes.HasPrefix(body, []byte("\xd9\xd9\xf7")):
		return []string{"CBOR"}
	case !utf8.Valid(body):
		return []string{"binary"}
	}
	var object map[string]any
	if err := json.Unmarshal(body, &object); err == nil {
		return objectText(st, object)
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(string(body)), "\n") { // watches, YAML and text
		var event struct {
			Type   string
			Object map[string]any
		}
		if json.Unmarshal([]byte(line), &event) == nil && event.Object != nil {
			lines = append(lines, "event "+event.Type)
			for _, l := range objectText(st, event.Object) {
				lines = append(lines, "  "+l)
			}
			continue
		}
		if len(lines) < 30 {
			lines = append(lines, "| "+line)
		}
	}
	return lines
}

func objectText(st step, object map[string]any) []string {
	kind := fmt.Sprint(object["kind"])
	if kind == "Status" {
		a := answer{raw: object}
		lines := append([]string{fmt.Sprintf("Status %v", object["code"])}, a.status()...)
		if object["metadata"] == nil {
			lines = append(lines, "no metadata")
		}
		return lines
	}
	meta, _ := object["metadata"].(map[string]any)
	items, isList := object["items"].([]any)
	rows, isTable := object["rows"].([]any)
	if !isList && !isTable {
		return leaves(st, object)
	}
	lines := []string{fmt.Sprintf("%v %s continue=%t remaining=%v version=%t", object["apiVersion"], kind,
		meta["continue"] != nil, meta["remainingItemCount"], meta["resourceVersion"] != nil)}
	if isTable {
		columns, _ := object["columnDefinitions"].([]any)
		lines = append(lines, fmt.Sprintf("%d columns", len(columns)))
		items = rows
	}
	for _, item := range items {
		lines = append(lines, "item")
		for _, l := range leaves(st, item.(map[string]any)) {
			lines = append(lines, "  "+l)
		}
	}
	return lines
}

func leaves(st step, object map[string]any) []string {
	flat := flatten(object)
	if st.Managed {
		meta, _ := object["metadata"].(map[string]any)
		fields, _ := meta["managedFields"].([]any)
		for i, f := range fields {
			text, _ := json.Marshal(f)
			flat[fmt.Sprintf("metadata/managedFields/%d", i)] = string(text)
		}
	}
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(flat)) {
		shown := len(st.Only) == 0
		for _, prefix := range st.Only {
			shown = shown || strings.HasPrefix(k, prefix)
		}
		if shown {
			lines = append(lines, k+" = "+ageCell.ReplaceAllString(flat[k], `"AGE"`))
		}
	}
	return lines
}
