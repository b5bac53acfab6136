// Package authenticationtest is the suite that every authentication plugin passes: in memory
// and as a process. It knows no token but the examples that it is given.
package authenticationtest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	"keelson.dev/keelson/proto/contracttest"
)

// Example is a token with whose it is.
type Example struct {
	Name  string `json:"name"`
	Token string `json:"token"`
	// Audiences that are asked for; empty is "https://kubernetes.default.svc".
	Audiences []string `json:"audiences,omitempty"`
	// User is the name of the user; empty: the token is not valid.
	User string `json:"user,omitempty"`
}

// Options say what the suite cannot know.
type Options struct {
	// New is a client of a plugin that is active; both end with the test.
	New func(t *testing.T) authenticationv1.AuthenticationServiceClient
	// Examples are one valid token and one that is the plugin's and not valid, at least.
	Examples []Example
}

// Run runs the suite.
func Run(t *testing.T, o Options) {
	contracttest.Run(t, func(ctx context.Context, t *testing.T) *run {
		return &run{Options: o, client: o.New(t), ctx: ctx}
	}, contracttest.Cases[*run]{
		{"EmptyToken", emptyToken},
		{"StrangeTokensAreNoError", strangeTokens},
		{"Examples", examples},
		{"UsersAreNotTheClusters", reserved},
		{"AudiencesAreOfTheRequest", audiences},
		{"TheReasonDoesNotTellTheToken", reasons},
		{"TheSameTwice", twice},
		{"Concurrent", concurrent},
	})
}

type run struct {
	Options
	client authenticationv1.AuthenticationServiceClient
	ctx    context.Context
}

func (e Example) request() *authenticationv1.ReviewRequest {
	r := &authenticationv1.ReviewRequest{Token: e.Token, Audiences: e.Audiences}
	if len(r.Audiences) == 0 {
		r.Audiences = []string{"https://kubernetes.default.svc"}
	}
	return r
}

// each asks about every example.
func (r *run) each(t *testing.T, check func(e Example, got *authenticationv1.ReviewResponse)) {
	t.Helper()
	for _, e := range r.Examples {
		got, err := r.client.Review(r.ctx, e.request())
		if err != nil {
			t.Errorf("%s: Review: %v", e.Name, err)
			continue
		}
		check(e, got)
	}
}

func emptyToken(t *testing.T, r *run) {
	if _, err := r.client.Review(r.ctx, Example{}.request()); status.Code(err) != codes.InvalidArgument {
		t.Errorf("Review of an empty token: got %v, want INVALID_ARGUMENT", err)
	}
}

func strangeTokens(t *testing.T, r *run) {
	for name, token := range map[string]string{
		"a word": "no-such-token", "a JWT": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "zero bytes": "a\x00b", "line breaks": "a\r\nb",
		"long": strings.Repeat("x", 64<<10),
	} {
		got, err := r.client.Review(r.ctx, Example{Token: token}.request())
		if err != nil || got.GetAuthenticated() || got.GetUser() != nil {
			t.Errorf("%s: got %v, %v, want not authenticated, no user and no error", name, got, err)
		}
	}
}

func examples(t *testing.T, r *run) {
	var valid, invalid bool
	r.each(t, func(e Example, got *authenticationv1.ReviewResponse) {
		valid, invalid = valid || e.User != "", invalid || e.User == ""
		if got.GetAuthenticated() != (e.User != "") || got.GetUser().GetUsername() != e.User {
			t.Errorf("%s: got %v, want user %q", e.Name, got, e.User)
		}
		if got.GetCacheTtl().AsDuration() < 0 {
			t.Errorf("%s: cache_ttl %s is negative", e.Name, got.GetCacheTtl().AsDuration())
		}
	})
	if !valid || !invalid {
		t.Error("the examples lack a valid token, or one that is not")
	}
}

func reserved(t *testing.T, r *run) {
	r.each(t, func(e Example, got *authenticationv1.ReviewResponse) {
		for _, name := range append([]string{got.GetUser().GetUsername()}, got.GetUser().GetGroups()...) {
			if strings.HasPrefix(name, "system:") {
				t.Errorf("%s: the kernel takes no %q from a plugin", e.Name, name)
			}
		}
		for key := range got.GetUser().GetExtra() {
			if key == "" || key != strings.ToLower(key) {
				t.Errorf("%s: the extra key %q is not lower case", e.Name, key)
			}
		}
	})
}

func audiences(t *testing.T, r *run) {
	r.each(t, func(e Example, got *authenticationv1.ReviewResponse) {
		for _, a := range got.GetAudiences() {
			if !slices.Contains(e.request().GetAudiences(), a) {
				t.Errorf("%s: audience %q was not asked for", e.Name, a)
			}
		}
	})
}

func reasons(t *testing.T, r *run) {
	r.each(t, func(e Example, got *authenticationv1.ReviewResponse) {
		if strings.Contains(got.GetReason(), e.Token) {
			t.Errorf("%s: the reason has the token in it", e.Name)
		}
	})
}

func twice(t *testing.T, r *run) {
	r.each(t, func(e Example, first *authenticationv1.ReviewResponse) {
		second, err := r.client.Review(r.ctx, e.request())
		if err != nil || !proto.Equal(first.GetUser(), second.GetUser()) || first.GetAuthenticated() != second.GetAuthenticated() {
			t.Errorf("%s: the answer differs the second time:\n%v\n%v, %v", e.Name, first, second, err)
		}
	})
}

func concurrent(t *testing.T, r *run) {
	var wg sync.WaitGroup
	for range 8 {
		for _, e := range r.Examples {
			wg.Go(func() {
				got, err := r.client.Review(r.ctx, e.request())
				if err != nil || got.GetUser().GetUsername() != e.User {
					t.Errorf("%s: got %v, %v, want user %q", e.Name, got, err, e.User)
				}
			})
		}
	}
	wg.Wait()
}
