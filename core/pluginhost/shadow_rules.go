package pluginhost

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// decidingKinds are those that decide, so that there may be a shadow. Those of the first
// kind tell what; the others are asked, and the API server asks both.
var decidingKinds = []string{"scheduler", "admission"}

// tells says whether plugins of a kind tell what they decide on the stream Decisions.
func tells(kind string) bool { return kind == "scheduler" }

// readingVerbs are those that change nothing.
var readingVerbs = []string{"get", "list", "watch"}

// Reading is what of a plugin's rules reads. A shadow has these and no others: not even
// what only asks (the creation of a TokenReview or SubjectAccessReview).
func Reading(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		allowed := readingVerbs
		if len(r.NonResourceURLs) > 0 {
			allowed = readingVerbs[:1]
		}
		var verbs []string
		for _, v := range allowed {
			if slices.Contains(r.Verbs, v) || slices.Contains(r.Verbs, rbacv1.VerbAll) {
				verbs = append(verbs, v)
			}
		}
		if len(verbs) == 0 {
			continue
		}
		r.Verbs = verbs
		out = append(out, r)
	}
	return out
}

// asShadow holds a program that is to be a shadow to what one may be, and leaves of its
// rules those that read.
func (s *session) asShadow(d *Description) error {
	switch {
	case s.version < pluginv1.Version2:
		// Of version 1 it would not see the mode, and be active.
		return final(fmt.Errorf("the program speaks version %d of the plugin contract, which has no shadow mode: build it against another release of the kit", s.version))
	case !slices.Contains(decidingKinds, d.Kind):
		return final(fmt.Errorf("spec.shadow: plugins of kind %q do not decide: only %s have a shadow", d.Kind, strings.Join(decidingKinds, " and ")))
	case len(d.Requires) > 0:
		return final(errors.New("spec.shadow: the program requires the sockets of other kinds (" + strings.Join(d.Requires, ", ") + "): by them it would have an effect"))
	}
	d.Rules = Reading(d.Rules)
	return nil
}

// ShadowSocket is where the shadow of a plugin serves its kind's contract.
func ShadowSocket(runDir, kind, name string) string { return Socket(runDir, kind, name+shadowSuffix) }

// shadowSuffix is in the names of a shadow's folders, cgroups and sockets: no plugin's name
// has a dot.
const shadowSuffix = ".shadow"
