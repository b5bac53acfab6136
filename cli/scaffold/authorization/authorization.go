package examples

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"keelson.dev/keelson/plugins/kit"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
)

// authorization lets the users of its configuration read, and keeps others from anything.
var authorization = kit.Plugin{
	Kind: "authorization", Description: "Lets some users read, and blocks others.", Scope: kit.ScopeCluster,
	ConfigSchema: `{"type":"object","properties":{"readers":{"type":"array","items":{"type":"string"}},"blocked":{"type":"array","items":{"type":"string"}}},"additionalProperties":false}`,
	New: func(env *kit.Env) (kit.Runner, error) {
		a := &Authorization{}
		if err := env.Decode(a); err != nil {
			return nil, err
		}
		return serve(env, func(s *grpc.Server) { authorizationv1.RegisterAuthorizationServiceServer(s, a) })
	},
}

// Authorization is the contract over two lists of users.
type Authorization struct {
	authorizationv1.UnimplementedAuthorizationServiceServer
	// Readers may get, list and watch everything.
	Readers []string `json:"readers"`
	// Blocked may do nothing.
	Blocked []string `json:"blocked"`
}

// Review implements the contract.
func (a *Authorization) Review(_ context.Context, r *authorizationv1.ReviewRequest) (*authorizationv1.ReviewResponse, error) {
	answer := &authorizationv1.ReviewResponse{}
	for _, one := range r.GetAccesses() {
		answer.Decisions = append(answer.Decisions, a.decide(one))
	}
	return answer, nil
}

func (a *Authorization) decide(one *authorizationv1.Access) *authorizationv1.Decision {
	name := one.GetUser().GetUsername()
	switch {
	case slices.Contains(a.Blocked, name):
		return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_DENY, Reason: "the user is blocked"}
	case slices.Contains(a.Readers, name) && slices.Contains([]string{"get", "list", "watch"}, one.GetVerb()):
		return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_ALLOW, Reason: "the user is a reader"}
	}
	return &authorizationv1.Decision{Outcome: authorizationv1.Outcome_OUTCOME_NO_OPINION}
}
