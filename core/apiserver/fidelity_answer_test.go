package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// answer is what a server says to a request.
type answer struct {
	code     int
	warnings []string
	raw      map[string]any
	object   map[string]string // flat
}

// What is another on each run or server.
var (
	// Texts about columns are each server's own.
	about     = regexp.MustCompile(`"description":"([^"\\]|\\.)*"`)
	ageCell   = regexp.MustCompile(`"(\d+[smhdy])+"`)
	pointer   = regexp.MustCompile(`0x[0-9a-f]{6,}`)
	apiAccess = regexp.MustCompile(`kube-api-access-[a-z0-9]{5}`)
	packageOf = regexp.MustCompile(`\b(core|v1|apps|batch|policy|rbac|discovery|coordination|networking|authentication|authorization|autoscaling)\.([A-Z])`)
	clusterIP = regexp.MustCompile(`\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+(/\d+)?\b`)
	timeStamp = regexp.MustCompile(`\b202[5-9]-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	uid       = regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`)
	generated = regexp.MustCompile(`\b(gen-|A_|a{58})[a-z0-9]{5}\b`)
	// Upstream prints its internal types, which have other names for fields than the API.
	printed    = regexp.MustCompile(`(Invalid|Unsupported|Duplicate) value: (\{.*\}|\[.*\]|null)(: |$)`)
	portOfNode = regexp.MustCompile(`:3[0-2]\d{3}/`)
	healthPort = regexp.MustCompile(`^(spec/(ports/\d+/nodePort|healthCheckNodePort)) = 3[0-2]\d{3}$`)
)

func mask(s string) string {
	s, _, _ = strings.Cut(s, "\n") // what follows is a comparison of Go structs
	s = printed.ReplaceAllString(s, "$1 value: OBJECT$3")
	s = pointer.ReplaceAllString(s, "POINTER")
	s = apiAccess.ReplaceAllString(s, "kube-api-access-NAME")
	s = packageOf.ReplaceAllString(s, "$2")
	s = clusterIP.ReplaceAllString(s, "CLUSTER-IP")
	s = timeStamp.ReplaceAllString(s, "TIME")
	s = uid.ReplaceAllString(s, "UID")
	s = portOfNode.ReplaceAllString(s, ":PORT/")
	return generated.ReplaceAllString(s, "${1}NAME")
}

// text is an answer in lines: code, then the Status with sorted causes or how
// the object differs from another, then warnings.
func (a answer) text(from map[string]string) string {
	lines := []string{strconv.Itoa(a.code)}
	if a.raw["kind"] == "Status" {
		lines = append(lines, a.status()...)
	} else {
		lines = append(lines, differences(from, a.object)...)
	}
	sort.Strings(a.warnings) // upstream finds some of them in a map
	for _, w := range a.warnings {
		lines = append(lines, mask("warning "+w))
	}
	return strings.Join(lines, "\n")
}

func (a answer) status() []string {
	details, _ := a.raw["details"].(map[string]any)
	message := fmt.Sprint(a.raw["message"])
	var causes []string
	list, _ := details["causes"].([]any)
	for _, c := range list {
		cause := c.(map[string]any)
		causes = append(causes, mask(fmt.Sprintf("cause %v %v: %v", cause["reason"], cause["field"], cause["message"])))
	}
	if len(causes) > 0 { // which the message repeats, in any order
		message, _, _ = strings.Cut(message, ": ")
	}
	sort.Strings(causes)
	delete(details, "causes")
	if name, _ := details["name"].(string); len(name) > 200 { // ends with what was generated
		details["name"] = name[:200]
	}
	rest, _ := json.Marshal(details)
	return append([]string{mask(fmt.Sprintf("%v %s %s", a.raw["reason"], rest, message))}, causes...)
}

// differences are the leaves that one flat object has and another has not.
func differences(from, to map[string]string) []string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(to)) {
		if from[k] != to[k] {
			lines = append(lines, healthPort.ReplaceAllString(mask(k+" = "+to[k]), "$1 = PORT"))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(from)) {
		if _, ok := to[k]; !ok {
			lines = append(lines, mask("no "+k))
		}
	}
	return lines
}

// flatten gives the leaves of an object by their paths, but for those that are another for each object.
func flatten(object map[string]any) map[string]string {
	flat := map[string]string{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if len(v) == 0 {
				flat[strings.TrimPrefix(path, "/")] = "{}"
			}
			for k, child := range v {
				walk(path+"/"+k, child)
			}
		case []any:
			if len(v) == 0 {
				flat[strings.TrimPrefix(path, "/")] = "[]"
			}
			for i, child := range v {
				walk(path+"/"+strconv.Itoa(i), child)
			}
		default:
			text, _ := json.Marshal(v)
			if len(text) > 400 {
				text = fmt.Appendf(nil, "%s... (%d bytes)", text[:40], len(text))
			}
			flat[strings.TrimPrefix(path, "/")] = mask(string(text))
		}
	}
	walk("", object)
	if meta, _ := object["metadata"].(map[string]any); meta["generateName"] != nil {
		delete(flat, "metadata/name")
	}
	for k := range flat {
		for _, prefix := range []string{"metadata/uid", "metadata/creationTimestamp", "metadata/resourceVersion", "metadata/managedFields",
			"spec/uid", "spec/extra/authentication.kubernetes.io"} { // of who asks for a certificate

			if strings.HasPrefix(k, prefix) {
				delete(flat, k)
			}
		}
	}
	return flat
}

// withChanges copies an object and sets what is at the paths.
func withChanges(t *testing.T, object map[string]any, changes map[string]any) map[string]any {
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var made map[string]any
	if err := json.Unmarshal(text, &made); err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(changes)) {
		set(t, made, strings.Split(path, "/"), expand(changes[path]))
	}
	return made
}

// set puts a value where the path leads to; "~" in a step is a slash, and an index one too high appends.
func set(t *testing.T, at any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	step := strings.ReplaceAll(path[0], "~", "/")
	if list, ok := at.([]any); ok {
		i, err := strconv.Atoi(step)
		if err != nil || i > len(list) {
			t.Fatalf("%q is no index into a list of %d", step, len(list))
		}
		if i == len(list) {
			list = append(list, nil)
		}
		if value == nil && len(path) == 1 {
			return slices.Delete(list, i, i+1)
		}
		list[i] = set(t, list[i], path[1:], value)
		return list
	}
	object, ok := at.(map[string]any)
	if !ok {
		object = map[string]any{}
		if _, err := strconv.Atoi(step); err == nil {
			return set(t, []any{}, path, value)
		}
	}
	if value == nil && len(path) == 1 {
		delete(object, step)
		return object
	}
	object[step] = set(t, object[step], path[1:], value)
	return object
}

// expand makes {$times: n, $of: x} n times x: a longer string or a list.
// In the elements of a list, # is the number of the element.
func expand(v any) any {
	switch v := v.(type) {
	case map[string]any:
		times, ok := v["$times"].(float64)
		if !ok {
			for k := range v {
				v[k] = expand(v[k])
			}
			return v
		}
		if s, ok := v["$of"].(string); ok {
			return strings.Repeat(s, int(times))
		}
		text, _ := json.Marshal(v["$of"])
		var list []any
		for i := range int(times) {
			var item any
			_ = json.Unmarshal([]byte(strings.ReplaceAll(string(text), "#", strconv.Itoa(i))), &item)
			list = append(list, item)
		}
		return list
	case []any:
		for i := range v {
			v[i] = expand(v[i])
		}
	}
	return v
}
