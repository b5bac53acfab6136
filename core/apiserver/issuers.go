package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	apiservervalidation "k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// issuers authenticates tokens of the JWT issuers of an
// AuthenticationConfiguration, which may be replaced.
type issuers struct {
	lifetime context.Context // of the server: issuers' keys are fetched within it
	reserved []string        // issuers that are ours
	algs     []string        // accepted signing algorithms
	// anonymous is what the first configuration said; nil: nothing.
	anonymous *apiserver.AnonymousAuthConfig

	mu    sync.RWMutex
	token authenticator.Token // guarded by mu; nil: there is no issuer
	stop  context.CancelFunc  // guarded by mu; ends what token runs
}

var _ authenticator.Token = (*issuers)(nil)

// AuthenticateToken implements authenticator.Token.
func (i *issuers) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	i.mu.RLock()
	t := i.token
	i.mu.RUnlock()
	if t == nil {
		return nil, false, nil
	}
	return t.AuthenticateToken(ctx, token)
}

// openIssuers puts the issuers of flags or file in force.
func (id *identity) openIssuers(ctx context.Context, c *Config) error {
	o := &c.Options.Authentication
	if o.ConfigFile == "" && !o.OIDC.given() {
		return nil
	}
	id.issuers = &issuers{lifetime: ctx, reserved: id.tokens.Issuers, algs: oidc.AllValidSigningAlgorithms()}
	if o.ConfigFile == "" {
		one, err := o.OIDC.issuer()
		if err != nil {
			return err
		}
		id.issuers.algs = o.OIDC.SigningAlgs
		if err := id.issuers.use(&apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{one}}); err != nil {
			return fmt.Errorf("--oidc-issuer-url: %w", err)
		}
		return nil
	}
	first := true
	file := &followedFile{flag: "authentication-config", path: o.ConfigFile, log: c.Log, use: func(content []byte) error {
		config, err := decodeAuthentication(content)
		if err != nil {
			return err
		}
		if config.Anonymous != nil && o.Anonymous != "paths" {
			return fmt.Errorf("anonymous: excludes --anonymous-auth")
		}
		if err := id.issuers.use(config); err != nil {
			return err
		}
		if first {
			first, id.issuers.anonymous = false, config.Anonymous
		}
		return nil
	}}
	id.follow = append(id.follow, file)
	return file.open()
}

var authenticationCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}

// decodeAuthentication reads an AuthenticationConfiguration strictly.
func decodeAuthentication(content []byte) (*apiserver.AuthenticationConfiguration, error) {
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, fmt.Errorf("is empty, want an AuthenticationConfiguration of apiserver.config.k8s.io/v1")
	}
	codecs := authenticationCodecs()
	obj, err := runtime.Decode(codecs.UniversalDecoder(), content)
	if err != nil {
		return nil, err
	}
	config, ok := obj.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("holds a %T, want an AuthenticationConfiguration", obj)
	}
	return config, nil
}

// use puts a configuration in force, unless something in it is wrong. Requests
// that are being checked by the last one may fail; their clients ask again.
func (i *issuers) use(config *apiserver.AuthenticationConfiguration) error {
	compiler := authenticationcel.NewDefaultCompiler()
	if err := apiservervalidation.ValidateAuthenticationConfiguration(compiler, config, i.reserved).ToAggregate(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(i.lifetime)
	var list []authenticator.Token
	for _, j := range config.JWT {
		options := oidc.Options{
			JWTAuthenticator: j, SupportedSigningAlgs: i.algs, Compiler: compiler, DisallowedIssuers: i.reserved, APIServerID: "keelson",
		}
		if ca := j.Issuer.CertificateAuthority; ca != "" {
			content, err := dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(ca))
			if err != nil {
				stop()
				return fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
			}
			options.CAContentProvider = content
		}
		one, err := oidc.New(ctx, options)
		if err != nil {
			stop()
			return fmt.Errorf("issuer %s: %w", j.Issuer.URL, err)
		}
		list = append(list, one)
	}
	var token authenticator.Token
	if len(list) > 0 {
		token = tokenunion.New(list...)
	}
	i.mu.Lock()
	last := i.stop
	i.token, i.stop = token, stop
	i.mu.Unlock()
	if last != nil {
		last()
	}
	return nil
}
