// Package authorizationtest is the suite that every authorization plugin passes: in memory
// and as a process. It knows nothing of what the plugin decides but the examples that it is
// given.
package authorizationtest

import (
	"context"
	"slices"
	"sync"
	"testing"

	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	"keelson.dev/keelson/proto/contracttest"
)

// Example is an access with what the plugin has to say.
type Example struct {
	Name    string
	Access  *authorizationv1.Access
	Outcome authorizationv1.Outcome
}

// Options say what the suite cannot know.
type Options struct {
	// New is a client of a plugin that is active; both end with the test.
	New func(t *testing.T) authorizationv1.AuthorizationServiceClient
	// Examples of different outcomes, two at least.
	Examples []Example
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *run {
		return &run{Options: o, client: o.New(t), ctx: ctx}
	}, contracttest.Cases[*run]{
		{"EmptyBatch", emptyBatch},
		{"OneByOne", oneByOne},
		{"InOneBatch", inOneBatch},
		{"TheOrderIsThatOfTheRequest", reversed},
		{"TheLargestBatch", largest},
		{"StrangersAreNoError", strangers},
		{"Concurrent", concurrent},
	})
}

type run struct {
	Options
	client authorizationv1.AuthorizationServiceClient
	ctx    context.Context
}

// check asks about examples in one batch.
func (r *run) check(t *testing.T, list ...Example) {
	t.Helper()
	request := &authorizationv1.ReviewRequest{}
	for _, e := range list {
		request.Accesses = append(request.Accesses, e.Access)
	}
	got, err := r.client.Review(r.ctx, request)
	if err != nil || len(got.GetDecisions()) != len(list) {
		t.Errorf("Review of %d accesses: got %d decisions, %v", len(list), len(got.GetDecisions()), err)
		return
	}
	for i, d := range got.GetDecisions() {
		if d.GetOutcome() != list[i].Outcome {
			t.Errorf("%s: got %s (%s), want %s", list[i].Name, d.GetOutcome(), d.GetReason(), list[i].Outcome)
		}
		if d.GetCacheTtl().AsDuration() < 0 {
			t.Errorf("%s: cache_ttl %s is negative", list[i].Name, d.GetCacheTtl().AsDuration())
		}
	}
}

func emptyBatch(t *testing.T, r *run) { r.check(t) }

func oneByOne(t *testing.T, r *run) {
	for _, e := range r.Examples {
		r.check(t, e)
		r.check(t, e)
	}
}

func inOneBatch(t *testing.T, r *run) { r.check(t, r.Examples...) }

func reversed(t *testing.T, r *run) {
	back := slices.Clone(r.Examples)
	slices.Reverse(back)
	if len(back) < 2 || back[0].Outcome == back[len(back)-1].Outcome {
		t.Fatal("the first and the last example have the same outcome, so that their order cannot be seen")
	}
	r.check(t, back...)
}

func largest(t *testing.T, r *run) {
	var list []Example
	for len(list) < authorizationv1.MaxBatch {
		list = append(list, r.Examples[len(list)%len(r.Examples)])
	}
	r.check(t, list...)
}

func strangers(t *testing.T, r *run) {
	for name, a := range map[string]*authorizationv1.Access{
		"nobody":     {Verb: "get", What: &authorizationv1.Access_Resource{Resource: &authorizationv1.ResourceAttributes{Version: "v1", Resource: "pods"}}},
		"no verb":    {User: &authorizationv1.UserInfo{Username: "somebody"}, What: &authorizationv1.Access_NonResource{NonResource: &authorizationv1.NonResourceAttributes{Path: "/"}}},
		"a new verb": {User: &authorizationv1.UserInfo{Username: "somebody"}, Verb: "polish", What: &authorizationv1.Access_Resource{Resource: &authorizationv1.ResourceAttributes{Group: "example.org", Version: "v9", Resource: "spoons"}}},
		"no object":  {User: &authorizationv1.UserInfo{Username: "somebody"}, Verb: "get"},
	} {
		got, err := r.client.Review(r.ctx, &authorizationv1.ReviewRequest{Accesses: []*authorizationv1.Access{a}})
		if err != nil || len(got.GetDecisions()) != 1 || got.GetDecisions()[0].GetOutcome() == authorizationv1.Outcome_OUTCOME_UNSPECIFIED {
			t.Errorf("%s: got %v, %v, want a decision", name, got, err)
		}
	}
}

func concurrent(t *testing.T, r *run) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { r.check(t, r.Examples...) })
	}
	wg.Wait()
}
