package main

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

// remembered is how long the API server may keep an answer.
const remembered = 30 * time.Second

// authenticator is one activation of the plugin.
type authenticator struct {
	authenticationv1.UnimplementedAuthenticationServiceServer
	env    *kit.Env
	config Config
}

// newAuthenticator checks the configuration and allocates. It starts nothing.
func newAuthenticator(env *kit.Env) (*authenticator, error) {
	a := &authenticator{env: env}
	return a, env.LoadConfig(&a.config)
}

// Start answers until ctx ends.
func (a *authenticator) Start(ctx context.Context) error {
	a.env.Health.SetReady()
	return a.env.ServeGRPC(ctx, func(s *grpc.Server) { authenticationv1.RegisterAuthenticationServiceServer(s, a) })
}

// Review says whose a token is. One that is not known is no error: another authenticator
// may know it.
func (a *authenticator) Review(_ context.Context, r *authenticationv1.ReviewRequest) (*authenticationv1.ReviewResponse, error) {
	if r.GetToken() == "" {
		return nil, status.Error(codes.InvalidArgument, "token: Required value")
	}
	account, known := a.config.Tokens[r.GetToken()]
	switch {
	case !known:
		return &authenticationv1.ReviewResponse{}, nil
	case account.Expired:
		return &authenticationv1.ReviewResponse{Reason: "the token has expired"}, nil
	}
	return &authenticationv1.ReviewResponse{
		Authenticated: true, CacheTtl: durationpb.New(remembered),
		User: &authenticationv1.UserInfo{Username: account.User, Groups: account.Groups},
	}, nil
}

var (
	_ kit.Runner                                   = (*authenticator)(nil)
	_ authenticationv1.AuthenticationServiceServer = (*authenticator)(nil)
)
