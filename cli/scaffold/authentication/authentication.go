package examples

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"keelson.dev/keelson/plugins/kit"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
)

// authentication knows the tokens of its configuration.
var authentication = kit.Plugin{
	Kind: "authentication", Description: "Knows the tokens of its configuration.", Scope: kit.ScopeCluster,
	ConfigSchema: `{"type":"object","properties":{"tokens":{"type":"object","additionalProperties":{"type":"object",
		"properties":{"user":{"type":"string"},"groups":{"type":"array","items":{"type":"string"}},"expired":{"type":"boolean"}},
		"required":["user"],"additionalProperties":false}}},"additionalProperties":false}`,
	New: func(env *kit.Env) (kit.Runner, error) {
		a := &Authentication{}
		if err := env.Decode(a); err != nil {
			return nil, err
		}
		return serve(env, func(s *grpc.Server) { authenticationv1.RegisterAuthenticationServiceServer(s, a) })
	},
}

// Authentication is the contract over a list of tokens.
type Authentication struct {
	authenticationv1.UnimplementedAuthenticationServiceServer
	// Tokens with whose they are.
	Tokens map[string]Account `json:"tokens"`
}

// Account is whose a token is.
type Account struct {
	User    string   `json:"user"`
	Groups  []string `json:"groups"`
	Expired bool     `json:"expired"`
}

// remembered is how long answers hold.
const remembered = 30 * time.Second

// Review implements the contract.
func (a *Authentication) Review(_ context.Context, r *authenticationv1.ReviewRequest) (*authenticationv1.ReviewResponse, error) {
	if r.GetToken() == "" {
		return nil, status.Error(codes.InvalidArgument, "token: Required value")
	}
	account, known := a.Tokens[r.GetToken()]
	switch {
	case !known:
		return &authenticationv1.ReviewResponse{}, nil
	case account.Expired:
		return &authenticationv1.ReviewResponse{Reason: "expired"}, nil
	}
	return &authenticationv1.ReviewResponse{
		Authenticated: true, CacheTtl: durationpb.New(remembered),
		User: &authenticationv1.UserInfo{Username: account.User, Groups: account.Groups},
	}, nil
}
