package registry_test

import (
	"regexp"
	"strings"
	"testing"

	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// notServed are kinds of stable versions that no API server serves as a resource.
var notServed = map[string]string{
	"v1/RangeAllocation":     "how upstream keeps what it has allocated",
	"v1/SerializedReference": "was in an annotation",
}

// TestStableKindsServed looks for each kind of a stable version that the client
// library knows: one that is new in its next release must not be forgotten.
func TestStableKindsServed(t *testing.T) {
	served := map[string]bool{}
	version := regexp.MustCompile(`^([^/]+/)?v\d\w*/`)
	for path, r := range resources(newAsker(t, start(t).config(t, "admin", "system:masters"))) {
		kind := r.Kind
		if !strings.Contains(kind, "/") { // of the same group and version
			kind = version.FindString(path) + kind
		}
		served[kind] = true
	}
	stable, noObject := regexp.MustCompile(`^v\d+$`), regexp.MustCompile(`(List|Options|Event)$`)
	for gvk, goType := range clientscheme.Scheme.AllKnownTypes() {
		kind := strings.Trim(gvk.Group+"/"+gvk.Version+"/"+gvk.Kind, "/")
		if !stable.MatchString(gvk.Version) || strings.Contains(goType.PkgPath(), "/apis/meta/") || noObject.MatchString(gvk.Kind) && gvk.Kind != "Event" {
			continue
		}
		switch why, known := notServed[kind]; {
		case known && served[kind]:
			t.Errorf("%s is served; take it out of what is not (%s)", kind, why)
		case !known && !served[kind]:
			t.Errorf("%s is not served", kind)
		}
	}
}
