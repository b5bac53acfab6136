package pluginhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacvalidation "k8s.io/component-helpers/auth/rbac/validation"
)

// revisionDigits are kept of the checksum.
const revisionDigits = 10

// historyLength is how many revisions are remembered.
const historyLength = 10

// Revision names what decides what runs: kind, source (of a built-in plugin, the version
// of the binary too, and whether it runs within this process), args, config, limits and
// accepted rules.
func (h *Host) Revision(s Spec) string {
	what := struct {
		Name, Kind, Program, Scope, Path, SHA256, Binary string
		Args                                             []string
		Config                                           json.RawMessage
		Limits                                           Limits
		Rules                                            []rbacv1.PolicyRule
		InProcess                                        bool `json:",omitempty"`
	}{Name: s.Name, Kind: s.Kind, Path: s.Path, SHA256: strings.ToLower(s.SHA256), Args: s.Args, Limits: s.Limits, InProcess: h.embeds(s) != nil}
	if s.Path == "" {
		what.Binary = h.cfg.Version
	}
	if s.Path != "" || s.Program != "" {
		what.Program, what.Scope, what.Rules = s.Program, s.Scope, s.Rules
	}
	if len(s.Config) > 0 {
		what.Config = canonical(s.Config)
	}
	text, err := json.Marshal(what)
	if err != nil { // a configuration that is no JSON: it is refused when it is used
		text = fmt.Append(nil, what)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])[:revisionDigits]
}

// canonical is a JSON text without what does not matter: space, and the order of keys.
func canonical(text json.RawMessage) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if d.Decode(&value) != nil {
		return text
	}
	out, err := json.Marshal(value)
	if err != nil {
		return text
	}
	return out
}

// target is a spec with the name of its revision.
type target struct {
	spec     Spec
	revision string
	// good says that it has done its work at some time.
	good bool
	// binary, of a built-in plugin of an earlier kernel, is what it is started from.
	binary string
}

// with puts a revision in front of the history, in place of an older entry of the same
// revision. An entry of another that was active becomes replaced.
func (h *History) with(r Revision) *History {
	out := &History{Revisions: []Revision{r}}
	if h == nil {
		return out
	}
	for _, old := range h.Revisions {
		if old.Revision == r.Revision {
			continue
		}
		if old.Outcome == OutcomeActive && r.Outcome == OutcomeActive {
			old.Outcome, old.End = OutcomeReplaced, r.Start
		}
		out.Revisions = append(out.Revisions, old)
	}
	out.Revisions = out.Revisions[:min(len(out.Revisions), historyLength)]
	return out
}

// change is the history with the entry of one revision changed.
func (h *History) change(revision string, change func(*Revision)) *History {
	if h == nil {
		return nil
	}
	out := &History{Revisions: slices.Clone(h.Revisions)}
	for i := range out.Revisions {
		if out.Revisions[i].Revision == revision {
			change(&out.Revisions[i])
		}
	}
	return out
}

// notAccepted are the rules that a program declares and its spec does not accept, in
// one line; empty if there are none.
func notAccepted(s Spec, declared []rbacv1.PolicyRule) string {
	if s.BuiltIn {
		return "" // it is as much the kernel's as the kernel itself
	}
	covered, missing := rbacvalidation.Covers(s.Rules, declared)
	if covered {
		return ""
	}
	var lines []string
	for _, r := range missing {
		what := strings.Join(r.NonResourceURLs, ",")
		if what == "" {
			what = strings.Join(r.Resources, ",")
			if group := strings.Join(r.APIGroups, ","); group != "" {
				what += "." + group
			}
			if len(r.ResourceNames) > 0 {
				what += "/" + strings.Join(r.ResourceNames, ",")
			}
		}
		line := strings.Join(r.Verbs, ",") + " " + what
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	const most = 20
	if len(lines) > most {
		lines = append(lines[:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return strings.Join(lines, "; ")
}
