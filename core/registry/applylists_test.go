package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestApplyLists applies objects by two managers, whose lists overlap, then
// takes the second one's away, and compares objects and managed fields with
// upstream's: that is how it is seen which lists are sets, maps and atoms. The
// answers are taken anew with -upstream.
func TestApplyLists(t *testing.T) {
	data, err := os.ReadFile("testdata/apply.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		One map[string]any `json:"one"`
		Two map[string]any `json:"two"` // without apiVersion, kind and metadata
	}
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		t.Fatal(err)
	}
	collect := func(a *asker) map[string]any {
		all := map[string]any{}
		for _, c := range cases {
			kind := fmt.Sprint(c.One["kind"])
			meta := map[string]any{"name": "kinds-apply"}
			bare := map[string]any{"apiVersion": c.One["apiVersion"], "kind": kind, "metadata": meta}
			c.One["metadata"] = meta
			two := maps.Clone(bare)
			maps.Copy(two, c.Two)
			path := a.path(c.One)
			at := path + "/kinds-apply"
			for i, step := range []struct {
				manager string
				object  map[string]any
			}{{"one", c.One}, {"two", two}, {"two", bare}} {
				code, out, _ := a.send(http.MethodPatch, at+"?fieldManager="+step.manager, "application/apply-patch+yaml", step.object, asJSON)
				all[fmt.Sprintf("%s %d %s", kind, i, step.manager)] = applied(code, out)
			}
			a.remove(path, c.One)
		}
		return all
	}
	want := answersOf(t, "testdata/apply.json", collect)
	got := collect(newAsker(t, start(t).config(t, "admin", "system:masters")))
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if diff := cmp.Diff(want[k], got[k]); diff != "" {
			t.Errorf("%s (-upstream +ours):\n%s", k, diff)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d answers, upstream's are %d; take them anew with -upstream", len(got), len(want))
	}
}

// applied is an answer without what is other each time, and with who manages what.
func applied(code int, out map[string]any) map[string]any {
	if out["kind"] == "Status" {
		return map[string]any{"code": float64(code), "message": out["message"]}
	}
	meta, _ := out["metadata"].(map[string]any)
	managed, _ := meta["managedFields"].([]any)
	for _, m := range managed {
		delete(m.(map[string]any), "time")
	}
	slices.SortFunc(managed, func(a, b any) int {
		return strings.Compare(fmt.Sprint(a.(map[string]any)["manager"]), fmt.Sprint(b.(map[string]any)["manager"]))
	})
	uid := fmt.Sprint(meta["uid"])
	trim(out)
	delete(out, "status")
	spec, _ := out["spec"].(map[string]any)
	for _, k := range []string{"clusterIP", "clusterIPs"} {
		delete(spec, k)
	}
	text, err := json.Marshal(map[string]any{"code": code, "object": out, "managedFields": managed})
	if err != nil {
		return map[string]any{"error": err.Error()}
	}
	var plain map[string]any // some labels have the uid
	if err := json.Unmarshal(bytes.ReplaceAll(text, []byte(uid), []byte("UID")), &plain); err != nil {
		return map[string]any{"error": err.Error()}
	}
	return plain
}
