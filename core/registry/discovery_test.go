package registry_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// served is what discovery says of a resource or subresource.
type served struct {
	Kind       string   `json:"kind"`
	Scope      string   `json:"scope,omitempty"`
	Singular   string   `json:"singular,omitempty"`
	ShortNames []string `json:"shortNames,omitempty"`
	Categories []string `json:"categories,omitempty"`
	Verbs      []string `json:"verbs"`
}

// discoveryDifferences are what is served otherwise than by upstream, on purpose.
var discoveryDifferences = map[string]string{
	"keelson.dev/v1alpha1/plugins":                               "Keelson's own",
	"keelson.dev/v1alpha1/plugins/status":                        "Keelson's own",
	"keelson.dev/v1alpha1/plugins/log":                           "Keelson's own",
	"keelson.dev/v1alpha1/plugins/swap":                          "Keelson's own",
	"keelson.dev/v1alpha1/plugins/comparison":                    "Keelson's own",
	"keelson.dev/v1alpha1/plugins/restart":                       "Keelson's own",
	"resource.k8s.io/v1/devicetaintrules":                        "new in 1.37, and the answers are 1.36's",
	"resource.k8s.io/v1/devicetaintrules/status":                 "new in 1.37, and the answers are 1.36's",
	"certificates.k8s.io/v1/clustertrustbundles":                 "new in 1.37, and the answers are 1.36's",
	"certificates.k8s.io/v1/podcertificaterequests":              "new in 1.37, and the answers are 1.36's",
	"certificates.k8s.io/v1/podcertificaterequests/status":       "new in 1.37, and the answers are 1.36's",
	"storagemigration.k8s.io/v1/storageversionmigrations":        "new in 1.37, and the answers are 1.36's",
	"storagemigration.k8s.io/v1/storageversionmigrations/status": "new in 1.37, and the answers are 1.36's",
}

// resources asks the aggregated discovery of all that is served, by group/version/resource.
func resources(a *asker) map[string]served {
	all := map[string]served{}
	list := func(v any) []string {
		var out []string
		items, _ := v.([]any)
		for _, i := range items {
			out = append(out, i.(string))
		}
		slices.Sort(out)
		return out
	}
	text := func(v any) string { s, _ := v.(string); return s }
	kind := func(v any) string {
		m, _ := v.(map[string]any)
		return strings.Trim(text(m["group"])+"/"+text(m["version"])+"/"+text(m["kind"]), "/")
	}
	for _, path := range []string{"/api", "/apis"} {
		_, out, _ := a.do(http.MethodGet, path, nil, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		groups, _ := out["items"].([]any)
		for _, g := range groups {
			group := g.(map[string]any)
			name := text(group["metadata"].(map[string]any)["name"])
			for _, v := range group["versions"].([]any) {
				version := v.(map[string]any)
				items, _ := version["resources"].([]any)
				for _, r := range items {
					m := r.(map[string]any)
					key := strings.TrimPrefix(name+"/", "/") + text(version["version"]) + "/" + text(m["resource"])
					all[key] = served{Kind: kind(m["responseKind"]), Scope: text(m["scope"]), Singular: text(m["singularResource"]),
						ShortNames: list(m["shortNames"]), Categories: list(m["categories"]), Verbs: list(m["verbs"])}
					subs, _ := m["subresources"].([]any)
					for _, s := range subs {
						sub := s.(map[string]any)
						all[key+"/"+text(sub["subresource"])] = served{Kind: kind(sub["responseKind"]), Verbs: list(sub["verbs"])}
					}
				}
			}
		}
	}
	return all
}

// TestDiscovery compares what is served with what upstream serves by default,
// name by name. The test data are taken anew with -upstream.
func TestDiscovery(t *testing.T) {
	want := answersOf(t, "testdata/discovery.json", resources)
	got := resources(newAsker(t, start(t).config(t, "admin", "system:masters")))
	names := maps.Clone(want)
	maps.Copy(names, got)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		w, wanted := want[name]
		g, given := got[name]
		same := wanted && given && equalServed(w, g)
		switch reason := discoveryDifferences[name]; {
		case reason != "" && same:
			t.Errorf("%s is as upstream's; take it out of the differences (%s)", name, reason)
		case reason != "" || same:
		case !given:
			t.Errorf("%s is not served; upstream: %+v", name, w)
		case !wanted:
			t.Errorf("%s is served, and upstream has no such thing: %+v", name, g)
		default:
			t.Errorf("%s: got %+v, upstream %+v", name, g, w)
		}
	}
	for name := range discoveryDifferences {
		if _, ok := names[name]; !ok {
			t.Errorf("a difference is named for %s, which nobody serves", name)
		}
	}
}

func equalServed(a, b served) bool {
	return a.Kind == b.Kind && a.Scope == b.Scope && a.Singular == b.Singular && slices.Equal(a.ShortNames, b.ShortNames) &&
		slices.Equal(a.Categories, b.Categories) && slices.Equal(a.Verbs, b.Verbs)
}
