package apiserver

import (
	"context"
	"fmt"
	"net/http"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"

	"keelson.dev/keelson/core/auth"
)

// anonymousPaths are what load balancers and clients look at before they have
// an identity.
var anonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// identity is all by which the server knows who asks.
type identity struct {
	tokens *auth.Tokens        // of service accounts
	token  authenticator.Token // any bearer token, with the group of all who are known
	// clientCA and proxyCA sign client certificates of users and of proxies.
	clientCA, proxyCA dynamiccertificates.CAContentProvider
	headers           *authenticatorfactory.RequestHeaderConfig
	issuers           *issuers
	anonymous         authenticator.Request // nil: nobody
	follow            []*followedFile
}

// newIdentity reads what the options name. Connections to issuers of tokens are
// made, and kept, in the background until ctx ends.
func newIdentity(ctx context.Context, c *Config, objects auth.Objects) (*identity, error) {
	o := &c.Options.Authentication
	id := &identity{}
	var err error
	if id.tokens, err = newTokens(c, objects); err != nil {
		return nil, err
	}
	if err := id.openCAs(c); err != nil {
		return nil, err
	}
	if err := id.openTokens(ctx, c, objects); err != nil {
		return nil, err
	}
	conditions := []apiserver.AnonymousAuthCondition{}
	for _, p := range anonymousPaths {
		conditions = append(conditions, apiserver.AnonymousAuthCondition{Path: p})
	}
	switch {
	case id.issuers != nil && id.issuers.anonymous != nil:
		if a := id.issuers.anonymous; a.Enabled {
			id.anonymous = anonymous.NewAuthenticator(a.Conditions)
		}
	case o.Anonymous == "true":
		id.anonymous = anonymous.NewAuthenticator(nil)
	case o.Anonymous == "paths":
		id.anonymous = anonymous.NewAuthenticator(conditions)
	}
	return id, nil
}

// openCAs reads the authorities of client certificates.
func (id *identity) openCAs(c *Config) error {
	o := &c.Options.Authentication
	own, err := dynamiccertificates.NewStaticCAContent("keelson-ca", c.PKI.CAPEM())
	if err != nil {
		return fmt.Errorf("client CA: %w", err)
	}
	id.clientCA = own
	if o.ClientCAFile != "" {
		more, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca-file", o.ClientCAFile)
		if err != nil {
			return fmt.Errorf("--client-ca-file: %w", err)
		}
		id.clientCA = dynamiccertificates.NewUnionCAContentProvider(own, more)
	}
	if o.RequestHeader.ClientCAFile != "" {
		id.proxyCA, err = dynamiccertificates.NewDynamicCAContentFromFile("requestheader-client-ca-file", o.RequestHeader.ClientCAFile)
	} else {
		id.proxyCA, err = dynamiccertificates.NewStaticCAContent("keelson-front-proxy-ca", c.PKI.FrontProxyCAPEM())
	}
	if err != nil {
		return fmt.Errorf("--requestheader-client-ca-file: %w", err)
	}
	list := func(l []string) headerrequest.StringSliceProvider { return headerrequest.StaticStringSlice(l) }
	id.headers = &authenticatorfactory.RequestHeaderConfig{
		UsernameHeaders: list(o.RequestHeader.UsernameHeaders), UIDHeaders: list(o.RequestHeader.UIDHeaders),
		GroupHeaders: list(o.RequestHeader.GroupHeaders), ExtraHeaderPrefixes: list(o.RequestHeader.ExtraPrefixes),
		CAContentProvider: id.proxyCA, AllowedClientNames: list(o.RequestHeader.AllowedNames),
	}
	return nil
}

// openTokens puts the ways to check a bearer token in order: what is checked
// here goes before what is asked of others.
func (id *identity) openTokens(ctx context.Context, c *Config, objects auth.Objects) error {
	o := &c.Options.Authentication
	audiences := id.tokens.APIAudiences()
	local := func(t authenticator.Token) authenticator.Token {
		return authenticator.WrapAudienceAgnosticToken(audiences, t)
	}
	var list []authenticator.Token
	if o.TokenFile != "" {
		file, err := tokenfile.NewCSV(o.TokenFile)
		if err != nil {
			return fmt.Errorf("--token-auth-file %s: %w", o.TokenFile, err)
		}
		list = append(list, local(file))
	}
	list = append(list, id.tokens)
	if o.BootstrapTokens {
		list = append(list, local(&auth.BootstrapTokens{Objects: objects, Now: c.now}))
	}
	if err := id.openIssuers(ctx, c); err != nil {
		return err
	}
	if id.issuers != nil {
		list = append(list, local(id.issuers))
	}
	if o.Webhook.ConfigFile != "" {
		config, err := utilwebhook.LoadKubeconfig(o.Webhook.ConfigFile, nil)
		if err != nil {
			return fmt.Errorf("--authentication-token-webhook-config-file %s: %w", o.Webhook.ConfigFile, err)
		}
		hook, err := webhook.New(config, o.Webhook.Version, audiences, *webhook.DefaultRetryBackoff())
		if err != nil {
			return fmt.Errorf("--authentication-token-webhook-config-file %s: %w", o.Webhook.ConfigFile, err)
		}
		list = append(list, cache.New(hook, false, o.Webhook.CacheTTL, o.Webhook.CacheTTL))
	}
	list = append(list, c.reviews.Authenticator(audiences))
	id.token = list[0]
	if len(list) > 1 {
		id.token = tokenunion.New(list...)
	}
	return nil
}

// requests knows who a request comes from.
func (id *identity) requests(c *Config) authenticator.Request {
	known := group.NewAuthenticatedGroupAdder(union.New(
		id.proxied(), // first: the proxy's certificate is not the user's
		auth.NewClientCertificates(id.clientCA.VerifyOptions, c.now),
		bearertoken.New(id.token),
		websocket.NewProtocolAuthenticator(id.token),
	))
	if id.anonymous == nil {
		return known
	}
	return union.NewFailOnError(known, id.anonymous)
}

// proxied takes the identity that a front proxy says. Without its header the
// certificate is not even looked at: verifying one is dear.
func (id *identity) proxied() authenticator.Request {
	h := id.headers
	verify := headerrequest.NewDynamicVerifyOptionsSecure(id.proxyCA.VerifyOptions, h.AllowedClientNames, h.UsernameHeaders,
		h.UIDHeaders, h.GroupHeaders, h.ExtraHeaderPrefixes)
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		for _, name := range h.UsernameHeaders.Value() {
			if req.Header.Get(name) != "" {
				return verify.AuthenticateRequest(req)
			}
		}
		return nil, false, nil
	})
}

// reviewed knows what a TokenReview is told: the same users, with the group of
// all who are known.
func (id *identity) reviewed() authenticator.Token {
	return group.NewTokenGroupAdder(id.token, []string{user.AllAuthenticated})
}

// apply puts all into the generic server's configuration.
func (id *identity) apply(c *Config, gc *genericapiserver.Config) {
	gc.Authentication.APIAudiences = id.tokens.APIAudiences()
	gc.Authentication.Authenticator = id.requests(c)
	gc.Authentication.RequestHeaderConfig = id.headers
	// The server asks for certificates of both; which is good for what is decided above.
	gc.SecureServing.ClientCA = dynamiccertificates.NewUnionCAContentProvider(id.clientCA, id.proxyCA)
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
	document := func(path, mediaType, operation, about string, body []byte) {
		ws := new(restful.WebService).Path(path).Produces(mediaType)
		ws.Route(ws.GET("").Doc(about).Operation(operation).Returns(http.StatusOK, "OK", "").
			To(func(_ *restful.Request, w *restful.Response) {
				w.Header().Set("Content-Type", mediaType)
				w.Header().Set("Cache-Control", "public, max-age=3600")
				w.ResponseWriter.Write(body) //nolint:errcheck // the client has gone
			}))
		s.Handler.GoRestfulContainer.Add(ws)
	}
	document("/.well-known/openid-configuration", "application/json", "getServiceAccountIssuerOpenIDConfiguration",
		"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", config)
	document("/openid/v1/jwks", "application/jwk-set+json", "getServiceAccountIssuerOpenIDKeyset",
		"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", keys)
	return nil
}
