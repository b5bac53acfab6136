package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// abacVersion is the only version of policy lines; upstream's lines without a
// version are older than any release that still runs.
const abacVersion = "abac.authorization.kubernetes.io/v1beta1"

// abacPolicy is one line of a policy file.
// https://kubernetes.io/docs/reference/access-authn-authz/abac/
type abacPolicy struct {
	User            string `json:"user,omitempty"`
	Group           string `json:"group,omitempty"`
	Readonly        bool   `json:"readonly,omitempty"`
	APIGroup        string `json:"apiGroup,omitempty"`
	Resource        string `json:"resource,omitempty"`
	Namespace       string `json:"namespace,omitempty"`
	NonResourcePath string `json:"nonResourcePath,omitempty"`
}

// ABAC authorizes by the policies of a file. It never denies.
type ABAC struct {
	plain
	policies []abacPolicy
}

var (
	_ authorizer.Authorizer   = (*ABAC)(nil)
	_ authorizer.RuleResolver = (*ABAC)(nil)
)

// maxABACLine bounds a line.
const maxABACLine = 64 << 10

// ParseABAC reads a policy file: a JSON object a line; empty lines and lines that
// begin with # are passed over. All faults are told, with their lines.
func ParseABAC(content []byte) (*ABAC, error) {
	a := &ABAC{}
	var errs []error
	for i, line := range bytes.Split(content, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		p, err := parseABACLine(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
			continue
		}
		a.policies = append(a.policies, p)
	}
	return a, errors.Join(errs...)
}

func parseABACLine(line []byte) (abacPolicy, error) {
	var l struct {
		APIVersion string      `json:"apiVersion"`
		Kind       string      `json:"kind"`
		Spec       *abacPolicy `json:"spec"`
	}
	if len(line) > maxABACLine {
		return abacPolicy{}, fmt.Errorf("is longer than %d bytes", maxABACLine)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return abacPolicy{}, fmt.Errorf("is not a policy: %w", err)
	}
	if d.More() {
		return abacPolicy{}, errors.New("holds more than one object")
	}
	switch {
	case l.APIVersion != abacVersion:
		return abacPolicy{}, fmt.Errorf("apiVersion: is %q, want %s", l.APIVersion, abacVersion)
	case l.Kind != "Policy":
		return abacPolicy{}, fmt.Errorf("kind: is %q, want Policy", l.Kind)
	case l.Spec == nil:
		return abacPolicy{}, errors.New("spec: is missing")
	case l.Spec.User == "" && l.Spec.Group == "":
		return abacPolicy{}, errors.New(`spec: names neither user nor group, and so matches nobody; "*" means everybody who is known`)
	}
	return *l.Spec, nil
}

// Authorize implements authorizer.Authorizer.
func (a *ABAC) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	for i := range a.policies {
		p := &a.policies[i]
		if p.isFor(attrs.GetUser()) && (!p.Readonly || attrs.IsReadOnly()) && p.covers(attrs) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "No policy matched.", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (a *ABAC) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// isFor says whether u is meant: by name, by group, or by both if both are given.
// "*" is everybody, but the unauthenticated only if their group is named.
func (p *abacPolicy) isFor(u user.Info) bool {
	if u == nil {
		return false
	}
	matched := false
	if p.User == "*" {
		matched = listed(u.GetGroups(), user.AllAuthenticated)
	} else if p.User != "" {
		if p.User != u.GetName() {
			return false
		}
		matched = true
	}
	if p.Group == "*" {
		return matched || listed(u.GetGroups(), user.AllAuthenticated)
	}
	if p.Group == "" {
		return matched
	}
	return slices.Contains(u.GetGroups(), p.Group) && (p.User == "" || matched)
}

func (p *abacPolicy) covers(a authorizer.Attributes) bool {
	if a.IsResourceRequest() {
		return (p.Namespace == "*" || p.Namespace == a.GetNamespace()) &&
			(p.Resource == "*" || p.Resource == a.GetResource()) &&
			(p.APIGroup == "*" || p.APIGroup == a.GetAPIGroup()) && p.Resource != ""
	}
	path, prefix := strings.CutSuffix(p.NonResourcePath, "*")
	return p.NonResourcePath != "" && (path == a.GetPath() || prefix && strings.HasPrefix(a.GetPath(), path))
}

// RulesFor implements authorizer.RuleResolver.
func (a *ABAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for i := range a.policies {
		p := &a.policies[i]
		if !p.isFor(u) {
			continue
		}
		verbs := []string{"*"}
		if p.Readonly {
			verbs = read
		}
		if p.Resource != "" && (p.Namespace == "*" || p.Namespace == namespace) {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: verbs, APIGroups: []string{p.APIGroup}, Resources: []string{p.Resource}})
		}
		if p.NonResourcePath != "" {
			if p.Readonly {
				verbs = []string{"get"}
			}
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: verbs, NonResourceURLs: []string{p.NonResourcePath}})
		}
	}
	return resources, paths, false, nil
}
