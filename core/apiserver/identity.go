package apiserver

import (
	"net/http"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"keelson.dev/keelson/core/auth"
)

// anonymousPaths are what load balancers and clients look at before they have
// an identity.
var anonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// newAuthenticator puts the ways to show an identity in order.
func newAuthenticator(c *Config, tokens *auth.Tokens) authenticator.Request {
	known := group.NewAuthenticatedGroupAdder(union.New(
		newProxied(c.PKI), // first: the proxy's certificate is not the user's
		auth.NewClientCertificates(c.PKI.CACertPool()),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	))
	var conditions []apiserver.AnonymousAuthCondition
	for _, p := range anonymousPaths {
		conditions = append(conditions, apiserver.AnonymousAuthCondition{Path: p})
	}
	return union.NewFailOnError(known, anonymous.NewAuthenticator(conditions))
}

// installDiscovery serves the documents by which others verify our tokens.
func installDiscovery(s *genericapiserver.GenericAPIServer, tokens *auth.Tokens) error {
	config, err := tokens.Configuration()
	if err != nil {
		return err
	}
	keys, err := tokens.JWKS()
	if err != nil {
		return err
	}
	document := func(contentType string, body []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			w.Write(body) //nolint:errcheck // the client has gone
		})
	}
	s.Handler.NonGoRestfulMux.Handle("/.well-known/openid-configuration", document("application/json", config))
	s.Handler.NonGoRestfulMux.Handle("/openid/v1/jwks", document("application/jwk-set+json", keys))
	return nil
}
