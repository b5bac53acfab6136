// Package admissiontest is the suite that every admission plugin passes: in memory and as a
// process. It knows nothing of what the plugin decides but the examples that it is given.
package admissiontest

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	"keelson.dev/keelson/proto/contracttest"
)

// Example is a request with what the plugin has to decide.
type Example struct {
	Name    string
	Request *admissionv1.ReviewRequest
	// Allowed is the decision.
	Allowed bool
	// Patched says that a patch is wanted, which leaves nothing to be patched when the
	// plugin is asked about the result.
	Patched bool
}

// Options say what the suite cannot know.
type Options struct {
	// New is a client of a plugin that is active; both end with the test.
	New func(t *testing.T) admissionv1.AdmissionServiceClient
	// Examples are of each hook at least one.
	Examples []Example
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *run {
		return &run{Options: o, client: o.New(t), ctx: ctx}
	}, contracttest.Cases[*run]{
		{"HooksAreValid", hooksValid},
		{"HooksAreTheSameTwice", hooksTwice},
		{"EachHookHasAnExample", hooksHaveExamples},
		{"UnknownHook", unknownHook},
		{"Decisions", decisions},
		{"DecisionsAreTheSameTwice", decisionsTwice},
		{"DryRunIsDecidedAlike", dryRun},
		{"ValidatingHooksDoNotPatch", validatingPatch},
		{"PatchesAreDoneOnce", patchOnce},
		{"Concurrent", concurrent},
	})
}

type run struct {
	Options
	client admissionv1.AdmissionServiceClient
	ctx    context.Context
}

func (r *run) hooks(t *testing.T) map[string]*admissionv1.Hook {
	t.Helper()
	got, err := r.client.Hooks(r.ctx, &admissionv1.HooksRequest{})
	if err != nil {
		t.Fatalf("Hooks: %v", err)
	}
	hooks := map[string]*admissionv1.Hook{}
	for _, h := range got.GetHooks() {
		hooks[h.GetName()] = h
	}
	if len(hooks) != len(got.GetHooks()) || len(hooks) == 0 {
		t.Fatalf("Hooks: got %d with %d names, want some, each with a name of its own", len(got.GetHooks()), len(hooks))
	}
	return hooks
}

func hooksValid(t *testing.T, r *run) {
	for name, h := range r.hooks(t) {
		if faults := validation.IsDNS1123Label(name); len(faults) > 0 {
			t.Errorf("hook %q: name is no DNS label: %v", name, faults)
		}
		if h.GetPhase() == admissionv1.Phase_PHASE_UNSPECIFIED {
			t.Errorf("hook %q: phase is not specified", name)
		}
		if h.GetSideEffects() == admissionv1.SideEffects_SIDE_EFFECTS_UNSPECIFIED {
			t.Errorf("hook %q: side effects are not specified", name)
		}
		if d := h.GetTimeout(); d != nil && (d.AsDuration() < 100*time.Millisecond || d.AsDuration() > 30*time.Second) {
			t.Errorf("hook %q: timeout %s is not from 100ms to 30s", name, d.AsDuration())
		}
		for _, s := range []string{h.GetNamespaceSelector(), h.GetObjectSelector()} {
			if _, err := labels.Parse(s); err != nil {
				t.Errorf("hook %q: selector %q: %v", name, s, err)
			}
		}
		if len(h.GetRules()) == 0 {
			t.Errorf("hook %q: no rules", name)
		}
		for i, rule := range h.GetRules() {
			if len(rule.GetOperations()) == 0 || len(rule.GetApiGroups()) == 0 || len(rule.GetApiVersions()) == 0 || len(rule.GetResources()) == 0 {
				t.Errorf("hook %q: rule %d lacks operations, groups, versions or resources: %v", name, i, rule)
			}
		}
	}
}

func hooksTwice(t *testing.T, r *run) {
	first := r.hooks(t)
	for name, h := range r.hooks(t) {
		if !proto.Equal(first[name], h) {
			t.Errorf("hook %q differs the second time:\n%v\n%v", name, first[name], h)
		}
	}
}

func hooksHaveExamples(t *testing.T, r *run) {
	hooks := r.hooks(t)
	for _, e := range r.Examples {
		if hooks[e.Request.GetHook()] == nil {
			t.Errorf("example %q is of hook %q, which is not there", e.Name, e.Request.GetHook())
		}
	}
	for name := range hooks {
		seen := false
		for _, e := range r.Examples {
			seen = seen || e.Request.GetHook() == name
		}
		if !seen {
			t.Errorf("hook %q has no example", name)
		}
	}
}

func unknownHook(t *testing.T, r *run) {
	request := proto.Clone(r.Examples[0].Request).(*admissionv1.ReviewRequest)
	request.Hook = "no-such-hook"
	if _, err := r.client.Review(r.ctx, request); status.Code(err) != codes.NotFound {
		t.Errorf("Review: got %v, want NOT_FOUND", err)
	}
}

func (r *run) review(t *testing.T, name string, request *admissionv1.ReviewRequest) *admissionv1.ReviewResponse {
	t.Helper()
	got, err := r.client.Review(r.ctx, request)
	if err != nil {
		t.Fatalf("%s: Review: %v", name, err)
	}
	return got
}

func decisions(t *testing.T, r *run) {
	for _, e := range r.Examples {
		got := r.review(t, e.Name, e.Request)
		if got.GetAllowed() != e.Allowed {
			t.Errorf("%s: allowed: got %t (%s), want %t", e.Name, got.GetAllowed(), got.GetStatus().GetMessage(), e.Allowed)
		}
		if !got.GetAllowed() && got.GetStatus().GetMessage() == "" {
			t.Errorf("%s: the refusal has no message", e.Name)
		}
		if code := got.GetStatus().GetCode(); code != 0 && (code < 400 || code > 599) {
			t.Errorf("%s: status code %d is not from 400 to 599", e.Name, code)
		}
	}
}

func decisionsTwice(t *testing.T, r *run) {
	for _, e := range r.Examples {
		first, second := r.review(t, e.Name, e.Request), r.review(t, e.Name, e.Request)
		if first.GetAllowed() != second.GetAllowed() || !bytes.Equal(first.GetPatch(), second.GetPatch()) {
			t.Errorf("%s: the decision differs the second time:\n%v\n%v", e.Name, first, second)
		}
	}
}

func dryRun(t *testing.T, r *run) {
	hooks := r.hooks(t)
	for _, e := range r.Examples {
		if hooks[e.Request.GetHook()].GetSideEffects() == admissionv1.SideEffects_SIDE_EFFECTS_SOME {
			continue // the kernel does not ask
		}
		request := proto.Clone(e.Request).(*admissionv1.ReviewRequest)
		request.DryRun = true
		if got := r.review(t, e.Name, request); got.GetAllowed() != e.Allowed {
			t.Errorf("%s: allowed in a dry run: got %t, want %t", e.Name, got.GetAllowed(), e.Allowed)
		}
	}
}

func validatingPatch(t *testing.T, r *run) {
	hooks := r.hooks(t)
	for _, e := range r.Examples {
		if hooks[e.Request.GetHook()].GetPhase() != admissionv1.Phase_PHASE_VALIDATING {
			continue
		}
		if got := r.review(t, e.Name, e.Request); len(got.GetPatch()) > 0 {
			t.Errorf("%s: a validating hook answers with the patch %s", e.Name, got.GetPatch())
		}
	}
}

func patchOnce(t *testing.T, r *run) {
	for _, e := range r.Examples {
		got := r.review(t, e.Name, e.Request)
		if patched := len(got.GetPatch()) > 0; patched != e.Patched {
			t.Errorf("%s: patched: got %t (%s), want %t", e.Name, patched, got.GetPatch(), e.Patched)
		}
		if len(got.GetPatch()) == 0 {
			continue
		}
		request := proto.Clone(e.Request).(*admissionv1.ReviewRequest)
		patch, err := jsonpatch.DecodePatch(got.GetPatch())
		if err == nil {
			request.Object, err = patch.Apply(request.GetObject())
		}
		if err != nil {
			t.Errorf("%s: patch %s: %v", e.Name, got.GetPatch(), err)
			continue
		}
		again := r.review(t, e.Name, request)
		if len(again.GetPatch()) == 0 {
			continue
		}
		if patch, err = jsonpatch.DecodePatch(again.GetPatch()); err == nil {
			var twice []byte
			if twice, err = patch.Apply(request.GetObject()); err == nil && jsonpatch.Equal(twice, request.GetObject()) {
				continue
			}
		}
		t.Errorf("%s: asked about its own result, the hook changes it once more: %s, %v", e.Name, again.GetPatch(), err)
	}
}

func concurrent(t *testing.T, r *run) {
	var wg sync.WaitGroup
	for range 8 {
		for _, e := range r.Examples {
			wg.Go(func() {
				got, err := r.client.Review(r.ctx, e.Request)
				if err != nil || got.GetAllowed() != e.Allowed {
					t.Errorf("%s: got %v, %v, want allowed %t", e.Name, got, err, e.Allowed)
				}
			})
		}
	}
	wg.Wait()
}
