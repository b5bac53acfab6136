package registry_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// TestFieldLabels asks for lists of all kinds by each field that some kind has
// a label for, and compares which are refused, and how, with upstream. The
// answers are taken anew with -upstream.
func TestFieldLabels(t *testing.T) {
	data, err := os.ReadFile("testdata/fieldlabels.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var asked struct{ Paths, Labels []string }
	if err := yaml.UnmarshalStrict(data, &asked); err != nil {
		t.Fatal(err)
	}
	collect := func(a *asker) map[string]string {
		answers := map[string]string{}
		for _, path := range asked.Paths {
			for _, label := range asked.Labels {
				code, out, _ := a.do(http.MethodGet, path+"?fieldSelector="+url.QueryEscape(label+"=x"), nil, asJSON)
				text := fmt.Sprint(code)
				if code != http.StatusOK {
					text = fmt.Sprintf("%d %v", code, out["message"])
				}
				answers[path+" "+label] = text
			}
		}
		return answers
	}
	golden := filepath.Join("testdata", "fieldlabels.json")
	if *upstream != "" {
		config, err := clientcmd.BuildConfigFromFlags("", *upstream)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(short(collect(newAsker(t, config))), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, append(text, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if data, err = os.ReadFile(golden); err != nil {
		t.Fatal(err)
	}
	var want map[string][]string
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	ours := collect(newAsker(t, start(t).config(t, "admin", "system:masters")))
	for answer, list := range want {
		for _, question := range list {
			if ours[question] != answer {
				t.Errorf("%s: got %q, want %q", question, ours[question], answer)
			}
			delete(ours, question)
		}
	}
	for question := range ours {
		t.Errorf("%s: was not asked of upstream", question)
	}
}

// short groups what was asked by the answer.
func short(answers map[string]string) map[string][]string {
	by := map[string][]string{}
	for _, k := range slices.Sorted(maps.Keys(answers)) {
		by[answers[k]] = append(by[answers[k]], k)
	}
	return by
}
