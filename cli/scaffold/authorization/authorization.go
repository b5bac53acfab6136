package main

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"keelson.dev/keelson/plugins/kit"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
)

// reading are the verbs that readers may use.
var reading = []string{"get", "list", "watch"}

// authorizer is one activation of the plugin.
type authorizer struct {
	authorizationv1.UnimplementedAuthorizationServiceServer
	env    *kit.Env
	config Config
}

// newAuthorizer checks the configuration and allocates. It starts nothing.
func newAuthorizer(env *kit.Env) (*authorizer, error) {
	a := &authorizer{env: env}
	return a, env.LoadConfig(&a.config)
}

// Start answers until ctx ends.
func (a *authorizer) Start(ctx context.Context) error {
	a.env.Health.SetReady()
	return a.env.ServeGRPC(ctx, func(s *grpc.Server) { authorizationv1.RegisterAuthorizationServiceServer(s, a) })
}

// Review decides about a batch, in its order.
func (a *authorizer) Review(_ context.Context, r *authorizationv1.ReviewRequest) (*authorizationv1.ReviewResponse, error) {
	answer := &authorizationv1.ReviewResponse{}
	for _, access := range r.GetAccesses() {
		answer.Decisions = append(answer.Decisions, a.decide(access))
	}
	return answer, nil
}

// decide leaves to others what it knows nothing of.
func (a *authorizer) decide(access *authorizationv1.Access) *authorizationv1.Decision {
	user := access.GetUser().GetUsername()
	switch {
	case slices.Contains(a.config.Blocked, user):
		return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_DENY, Reason: "the user is blocked"}
	case slices.Contains(a.config.Readers, user) && slices.Contains(reading, access.GetVerb()):
		return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_ALLOW, Reason: "the user is a reader"}
	default:
		return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_NO_OPINION}
	}
}

var (
	_ kit.Runner                                 = (*authorizer)(nil)
	_ authorizationv1.AuthorizationServiceServer = (*authorizer)(nil)
)
