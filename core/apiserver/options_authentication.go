package apiserver

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// AuthenticationOptions say whom the API server believes to be who. Client
// certificates of the cluster's CA and service account tokens always count.
type AuthenticationOptions struct {
	// Anonymous says where requests without identity are served: "paths" (the
	// default) at /healthz, /livez, /readyz and /version, "true" wherever the user
	// system:anonymous has rights, "false" nowhere.
	Anonymous anonymousMode
	// ClientCAFile holds further CAs whose client certificates count. Changes take
	// effect within a minute. Default none.
	ClientCAFile string
	// BootstrapTokens accepts the tokens in secrets of type
	// bootstrap.kubernetes.io/token in kube-system. Default on.
	BootstrapTokens bool
	// TokenFile is a CSV file: token, user name, user ID, optional groups. It is
	// read once. Default none.
	TokenFile string
	// ConfigFile is an AuthenticationConfiguration (apiserver.config.k8s.io) with
	// JWT issuers and anonymous paths, read anew when it changes. Default none.
	ConfigFile string
	// OIDC is one issuer without a ConfigFile.
	OIDC OIDCOptions
	// Webhook answers TokenReviews.
	Webhook TokenWebhookOptions
	// RequestHeader believes proxies.
	RequestHeader RequestHeaderOptions
	// Accounts are about service account tokens.
	Accounts AccountTokenOptions
}

// OIDCOptions are upstream's --oidc flags: one issuer of OpenID Connect tokens.
type OIDCOptions struct {
	// IssuerURL (https) and ClientID, its audience, turn it on. Default none.
	IssuerURL, ClientID string
	// UsernameClaim is the user's name. Default sub.
	UsernameClaim string
	// UsernamePrefix goes before names; "-" means none. Default: none for the claim
	// email, otherwise the issuer's URL and #.
	UsernamePrefix string
	// GroupsClaim, if given, holds groups, which get GroupsPrefix.
	GroupsClaim, GroupsPrefix string
	// RequiredClaims must be in each token with that value.
	RequiredClaims map[string]string
	// CAFile verifies the issuer's certificate. Default: the machine's CAs.
	CAFile string
	// SigningAlgs are accepted. Default RS256.
	SigningAlgs []string
}

// TokenWebhookOptions name a service that knows tokens.
type TokenWebhookOptions struct {
	// ConfigFile is a kubeconfig that says where it is. Default none.
	ConfigFile string
	// Version of TokenReview that it is sent: v1 or v1beta1. Default v1beta1, as upstream.
	Version string
	// CacheTTL is how long its answers hold. Default 2 min.
	CacheTTL time.Duration
}

// RequestHeaderOptions name the proxies that say in headers whom they speak for.
type RequestHeaderOptions struct {
	// ClientCAFile verifies the proxies' client certificates. Default: the
	// cluster's front-proxy CA.
	ClientCAFile string
	// AllowedNames are the common names of their certificates; empty means any.
	// Default front-proxy-client.
	AllowedNames []string
	// The headers' names. Default X-Remote-User, X-Remote-Uid, X-Remote-Group,
	// X-Remote-Extra-.
	UsernameHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// anonymousMode is a flag's value: true, false or paths.
type anonymousMode string

// String implements pflag.Value.
func (m *anonymousMode) String() string { return string(*m) }

// Type implements pflag.Value.
func (m *anonymousMode) Type() string { return "true|false|paths" }

// Set implements pflag.Value.
func (m *anonymousMode) Set(value string) error {
	if on, err := strconv.ParseBool(value); err == nil {
		value = strconv.FormatBool(on)
	} else if value != "paths" {
		return errors.New("must be true, false or paths")
	}
	*m = anonymousMode(value)
	return nil
}

func newAuthenticationOptions() AuthenticationOptions {
	return AuthenticationOptions{
		Anonymous: "paths", BootstrapTokens: true,
		OIDC:    OIDCOptions{UsernameClaim: "sub", SigningAlgs: []string{"RS256"}},
		Webhook: TokenWebhookOptions{Version: "v1beta1", CacheTTL: 2 * time.Minute},
		RequestHeader: RequestHeaderOptions{
			AllowedNames: []string{frontProxyClient}, UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"},
			GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
		},
		Accounts: newAccountTokenOptions(),
	}
}

func (o *AuthenticationOptions) addFlags(fs *pflag.FlagSet) {
	fs.Var(&o.Anonymous, "anonymous-auth", "Where requests without identity are served: false, true, or paths (health checks and version only)")
	fs.Lookup("anonymous-auth").NoOptDefVal = "true"
	fs.StringVar(&o.ClientCAFile, "client-ca-file", "", "PEM file of further CAs whose client certificates are accepted, beside the cluster's own")
	fs.BoolVar(&o.BootstrapTokens, "enable-bootstrap-token-auth", o.BootstrapTokens, "Accept tokens of secrets of type bootstrap.kubernetes.io/token in kube-system")
	fs.StringVar(&o.TokenFile, "token-auth-file", "", "CSV file of static tokens: token,user,uid,\"group1,group2\"")
	fs.StringVar(&o.ConfigFile, "authentication-config", "", "AuthenticationConfiguration (apiserver.config.k8s.io) with JWT issuers; read anew when it changes")
	markPaths(fs, "client-ca-file", "token-auth-file", "authentication-config")
	o.OIDC.addFlags(fs)
	o.Webhook.addFlags(fs)
	o.RequestHeader.addFlags(fs)
	o.Accounts.addFlags(fs)
}

func (o *OIDCOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.IssuerURL, "oidc-issuer-url", "", "URL (https) of an OpenID Connect issuer whose tokens are accepted")
	fs.StringVar(&o.ClientID, "oidc-client-id", "", "Audience that its tokens must have")
	fs.StringVar(&o.CAFile, "oidc-ca-file", "", "PEM file of the CA of the issuer (default: the machine's CAs)")
	fs.StringVar(&o.UsernameClaim, "oidc-username-claim", o.UsernameClaim, "Claim with the user's name")
	fs.StringVar(&o.UsernamePrefix, "oidc-username-prefix", "", "Put before user names; - for nothing (default: the issuer's URL and #, nothing for the claim email)")
	fs.StringVar(&o.GroupsClaim, "oidc-groups-claim", "", "Claim with the user's groups")
	fs.StringVar(&o.GroupsPrefix, "oidc-groups-prefix", "", "Put before groups")
	fs.StringSliceVar(&o.SigningAlgs, "oidc-signing-algs", o.SigningAlgs, "Accepted signing algorithms")
	fs.StringToStringVar(&o.RequiredClaims, "oidc-required-claim", nil, "KEY=VALUE that tokens must have; may be repeated")
	markPaths(fs, "oidc-ca-file")
}

func (o *TokenWebhookOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ConfigFile, "authentication-token-webhook-config-file", "", "kubeconfig of a service that answers TokenReviews")
	fs.StringVar(&o.Version, "authentication-token-webhook-version", o.Version, "Version of TokenReview that it is sent: v1 or v1beta1")
	fs.DurationVar(&o.CacheTTL, "authentication-token-webhook-cache-ttl", o.CacheTTL, "How long its answers hold")
	markPaths(fs, "authentication-token-webhook-config-file")
}

func (o *RequestHeaderOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.ClientCAFile, "requestheader-client-ca-file", "", "PEM file of the CAs of proxies that name users in headers (default: the cluster's front-proxy CA)")
	fs.StringSliceVar(&o.AllowedNames, "requestheader-allowed-names", o.AllowedNames, "Common names of the proxies' certificates; empty for any")
	fs.StringSliceVar(&o.UsernameHeaders, "requestheader-username-headers", o.UsernameHeaders, "Headers with the user's name")
	fs.StringSliceVar(&o.UIDHeaders, "requestheader-uid-headers", o.UIDHeaders, "Headers with the user's ID")
	fs.StringSliceVar(&o.GroupHeaders, "requestheader-group-headers", o.GroupHeaders, "Headers with groups")
	fs.StringSliceVar(&o.ExtraPrefixes, "requestheader-extra-headers-prefix", o.ExtraPrefixes, "Prefixes of headers with more about the user")
	markPaths(fs, "requestheader-client-ca-file")
}

func (o *AuthenticationOptions) validate() []error {
	var errs []error
	for flag, path := range map[string]string{
		"client-ca-file": o.ClientCAFile, "token-auth-file": o.TokenFile, "authentication-config": o.ConfigFile, "oidc-ca-file": o.OIDC.CAFile,
		"authentication-token-webhook-config-file": o.Webhook.ConfigFile, "requestheader-client-ca-file": o.RequestHeader.ClientCAFile,
	} {
		if err := readable(path); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if o.ConfigFile != "" && o.OIDC.given() {
		errs = append(errs, errors.New("--authentication-config and the --oidc flags exclude each other: put the issuer into the file"))
	}
	errs = append(errs, o.OIDC.validate()...)
	if o.Webhook.Version != "v1" && o.Webhook.Version != "v1beta1" {
		errs = append(errs, fmt.Errorf("--authentication-token-webhook-version %q: must be v1 or v1beta1", o.Webhook.Version))
	}
	if o.Webhook.CacheTTL < 0 {
		errs = append(errs, fmt.Errorf("--authentication-token-webhook-cache-ttl %s: must not be negative", o.Webhook.CacheTTL))
	}
	h := &o.RequestHeader
	if len(h.UsernameHeaders) == 0 {
		errs = append(errs, errors.New("--requestheader-username-headers: names no header"))
	}
	for flag, list := range map[string][]string{
		"username-headers": h.UsernameHeaders, "uid-headers": h.UIDHeaders, "group-headers": h.GroupHeaders, "extra-headers-prefix": h.ExtraPrefixes,
	} {
		for _, name := range list {
			if strings.TrimSpace(name) != name || name == "" {
				errs = append(errs, fmt.Errorf("--requestheader-%s: %q is not the name of a header", flag, name))
			}
		}
	}
	return append(errs, o.Accounts.validate()...)
}

// readable says why a file that a flag names cannot be read.
func readable(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (o *OIDCOptions) given() bool {
	return o.IssuerURL != "" || o.ClientID != "" || o.CAFile != "" || o.GroupsClaim != "" || o.UsernamePrefix != "" || len(o.RequiredClaims) > 0
}

func (o *OIDCOptions) validate() []error {
	if !o.given() {
		return nil
	}
	var errs []error
	if u, err := url.Parse(o.IssuerURL); err != nil || u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("--oidc-issuer-url %q: must be a URL with https", o.IssuerURL))
	}
	if o.ClientID == "" {
		errs = append(errs, errors.New("--oidc-client-id: is required with --oidc-issuer-url"))
	}
	if o.UsernameClaim == "" {
		errs = append(errs, errors.New("--oidc-username-claim: must not be empty"))
	}
	for _, alg := range o.SigningAlgs {
		if !slices.Contains(oidc.AllValidSigningAlgorithms(), alg) {
			errs = append(errs, fmt.Errorf("--oidc-signing-algs %q: must be one of %s", alg, strings.Join(oidc.AllValidSigningAlgorithms(), ", ")))
		}
	}
	return errs
}

// issuer is the configuration that a file would have.
func (o *OIDCOptions) issuer() (apiserver.JWTAuthenticator, error) {
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email":
		prefix = o.IssuerURL + "#"
	}
	j := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		groups := o.GroupsPrefix
		j.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &groups}
	}
	for claim, value := range o.RequiredClaims {
		j.ClaimValidationRules = append(j.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return j, fmt.Errorf("--oidc-ca-file: %w", err)
		}
		j.Issuer.CertificateAuthority = string(ca)
	}
	return j, nil
}
