package registry_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"

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
	want := answersOf(t, "testdata/fieldlabels.json", func(a *asker) map[string][]string { return short(collect(a)) })
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
