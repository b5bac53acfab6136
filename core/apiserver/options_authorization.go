package apiserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/apis/apiserver"
)

// authorizationModes are those of --authorization-mode.
var authorizationModes = []string{"Node", "RBAC", "ABAC", "Webhook", "Plugin", "AlwaysAllow", "AlwaysDeny"}

// AuthorizationOptions say who may do what. Members of system:masters may do
// everything, whatever is chosen.
type AuthorizationOptions struct {
	// Modes are asked in order; the first that allows or denies decides. Default
	// Node, RBAC, Plugin: the last are plugins of kind authorization.
	Modes []string
	// ConfigFile is an AuthorizationConfiguration (apiserver.config.k8s.io) instead
	// of Modes, read anew when it changes. Default none.
	ConfigFile string
	// PolicyFile holds ABAC policies, a JSON object a line. It is read once.
	PolicyFile string
	// Webhook is the service of the mode Webhook.
	Webhook AccessWebhookOptions
}

// AccessWebhookOptions name a service that answers SubjectAccessReviews.
type AccessWebhookOptions struct {
	// ConfigFile is a kubeconfig that says where it is.
	ConfigFile string
	// Version of SubjectAccessReview that it is sent: v1 or v1beta1. Default v1beta1, as upstream.
	Version string
	// AuthorizedTTL and UnauthorizedTTL are how long its answers hold. Default 5 min
	// and 30 s.
	AuthorizedTTL, UnauthorizedTTL time.Duration
}

func newAuthorizationOptions() AuthorizationOptions {
	return AuthorizationOptions{
		Modes:   []string{"Node", "RBAC", "Plugin"},
		Webhook: AccessWebhookOptions{Version: "v1beta1", AuthorizedTTL: 5 * time.Minute, UnauthorizedTTL: 30 * time.Second},
	}
}

func (o *AuthorizationOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringSliceVar(&o.Modes, "authorization-mode", o.Modes, "Authorizers in the order in which they are asked: "+strings.Join(authorizationModes, ", "))
	fs.StringVar(&o.ConfigFile, "authorization-config", "", "AuthorizationConfiguration (apiserver.config.k8s.io) instead of --authorization-mode; read anew when it changes")
	fs.StringVar(&o.PolicyFile, "authorization-policy-file", "", "Policies of mode ABAC: a JSON object a line")
	fs.StringVar(&o.Webhook.ConfigFile, "authorization-webhook-config-file", "", "kubeconfig of the service of mode Webhook")
	fs.StringVar(&o.Webhook.Version, "authorization-webhook-version", o.Webhook.Version, "Version of SubjectAccessReview that it is sent: v1 or v1beta1")
	fs.DurationVar(&o.Webhook.AuthorizedTTL, "authorization-webhook-cache-authorized-ttl", o.Webhook.AuthorizedTTL, "How long it is remembered that it allowed something")
	fs.DurationVar(&o.Webhook.UnauthorizedTTL, "authorization-webhook-cache-unauthorized-ttl", o.Webhook.UnauthorizedTTL, "How long it is remembered that it did not")
	markPaths(fs, "authorization-config", "authorization-policy-file", "authorization-webhook-config-file")
}

func (o *AuthorizationOptions) validate() []error {
	var errs []error
	for flag, path := range map[string]string{
		"authorization-config": o.ConfigFile, "authorization-policy-file": o.PolicyFile, "authorization-webhook-config-file": o.Webhook.ConfigFile,
	} {
		if err := readable(path); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if o.ConfigFile != "" && !slices.Equal(o.Modes, newAuthorizationOptions().Modes) {
		errs = append(errs, errors.New("--authorization-config and --authorization-mode exclude each other"))
	}
	if len(o.Modes) == 0 {
		errs = append(errs, errors.New("--authorization-mode: names no authorizer"))
	}
	for i, mode := range o.Modes {
		if !slices.Contains(authorizationModes, mode) {
			errs = append(errs, fmt.Errorf("--authorization-mode %q: must be one of %s", mode, strings.Join(authorizationModes, ", ")))
		}
		if slices.Contains(o.Modes[:i], mode) {
			errs = append(errs, fmt.Errorf("--authorization-mode %q: is given twice", mode))
		}
	}
	hook := slices.Contains(o.Modes, "Webhook")
	if abac := slices.Contains(o.Modes, "ABAC"); o.ConfigFile == "" && abac != (o.PolicyFile != "") {
		errs = append(errs, errors.New("--authorization-mode ABAC and --authorization-policy-file need each other"))
	}
	if hook != (o.Webhook.ConfigFile != "") {
		errs = append(errs, errors.New("--authorization-mode Webhook and --authorization-webhook-config-file need each other"))
	}
	if o.Webhook.Version != "v1" && o.Webhook.Version != "v1beta1" {
		errs = append(errs, fmt.Errorf("--authorization-webhook-version %q: must be v1 or v1beta1", o.Webhook.Version))
	}
	if o.Webhook.AuthorizedTTL < 0 || o.Webhook.UnauthorizedTTL < 0 {
		errs = append(errs, errors.New("--authorization-webhook-cache-authorized-ttl and -unauthorized-ttl must not be negative"))
	}
	return errs
}

// configuration is what a file would say.
func (o *AuthorizationOptions) configuration() *apiserver.AuthorizationConfiguration {
	c := &apiserver.AuthorizationConfiguration{}
	for _, mode := range o.Modes {
		a := apiserver.AuthorizerConfiguration{Type: apiserver.AuthorizerType(mode), Name: strings.ToLower(mode)}
		if mode == "Webhook" {
			a.Webhook = &apiserver.WebhookConfiguration{
				SubjectAccessReviewVersion: o.Webhook.Version, FailurePolicy: apiserver.FailurePolicyNoOpinion,
				CacheAuthorizedRequests: true, CacheUnauthorizedRequests: true,
				ConnectionInfo: apiserver.WebhookConnectionInfo{
					Type: apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile, KubeConfigFile: &o.Webhook.ConfigFile,
				},
			}
			a.Webhook.AuthorizedTTL.Duration, a.Webhook.UnauthorizedTTL.Duration = o.Webhook.AuthorizedTTL, o.Webhook.UnauthorizedTTL
			a.Webhook.Timeout.Duration = 30 * time.Second
		}
		c.Authorizers = append(c.Authorizers, a)
	}
	return c
}
