package apiserver

import (
	"context"
	"fmt"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/load"
	apiservervalidation "k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	utilwebhook "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/review"
)

// rights is all by which the server decides who may do what.
type rights struct {
	*auth.Chain
	rbac     *auth.RBAC
	node     *auth.Node
	nodes    *nodeObjects
	abac     *auth.ABAC // nil without a policy file
	loopback *rest.Config
	file     *followedFile // nil without --authorization-config
	reviews  *review.Set
}

// newRights reads what the options name. What it begins ends with ctx.
func newRights(ctx context.Context, c *Config, rbac *auth.RBAC, loopback *rest.Config) (*rights, error) {
	o := &c.Options.Authorization
	r := &rights{Chain: auth.NewChain(), rbac: rbac, nodes: &nodeObjects{}, loopback: loopback, reviews: c.reviews}
	r.node = auth.NewNode(ctx, r.nodes)
	if o.PolicyFile != "" {
		content, err := os.ReadFile(o.PolicyFile)
		if err == nil {
			r.abac, err = auth.ParseABAC(content)
		}
		if err != nil {
			return nil, fmt.Errorf("--authorization-policy-file %s: %w", o.PolicyFile, err)
		}
	}
	if o.ConfigFile == "" {
		return r, r.use(o.configuration())
	}
	r.file = &followedFile{flag: "authorization-config", path: o.ConfigFile, log: c.Log, use: func(content []byte) error {
		if len(strings.TrimSpace(string(content))) == 0 {
			return fmt.Errorf("is empty, want an AuthorizationConfiguration of apiserver.config.k8s.io/v1")
		}
		config, err := load.LoadFromData(content)
		if err != nil {
			return err
		}
		compiler := authorizationcel.NewDefaultCompiler()
		known, repeatable := sets.New(authorizationModes...), sets.New(string(apiserver.TypeWebhook))
		if err := apiservervalidation.ValidateAuthorizationConfiguration(compiler, nil, config, known, repeatable).ToAggregate(); err != nil {
			return err
		}
		return r.use(config)
	}}
	return r, r.file.open()
}

// use puts a configuration in force.
func (r *rights) use(config *apiserver.AuthorizationConfiguration) error {
	var list []authorizer.Authorizer
	for _, a := range config.Authorizers {
		switch string(a.Type) {
		case "Node":
			list = append(list, r.node)
		case "RBAC":
			list = append(list, r.rbac)
		case "ABAC":
			if r.abac == nil {
				return fmt.Errorf("authorizer %s: no policies: name a file with --authorization-policy-file", a.Name)
			}
			list = append(list, r.abac)
		case "Plugin":
			list = append(list, r.reviews.Authorizer())
		case "AlwaysAllow":
			list = append(list, authorizerfactory.NewAlwaysAllowAuthorizer())
		case "AlwaysDeny":
			list = append(list, authorizerfactory.NewAlwaysDenyAuthorizer())
		case "Webhook":
			hook, err := r.webhook(a.Name, a.Webhook)
			if err != nil {
				return fmt.Errorf("authorizer %s: %w", a.Name, err)
			}
			list = append(list, hook)
		}
	}
	r.Set(list...)
	return nil
}

func (r *rights) webhook(name string, c *apiserver.WebhookConfiguration) (authorizer.Authorizer, error) {
	config := rest.CopyConfig(r.loopback)
	if c.ConnectionInfo.Type == apiserver.AuthorizationWebhookConnectionInfoTypeKubeConfigFile {
		var err error
		if config, err = utilwebhook.LoadKubeconfig(*c.ConnectionInfo.KubeConfigFile, nil); err != nil {
			return nil, err
		}
	}
	config.Timeout = c.Timeout.Duration
	onError := authorizer.DecisionNoOpinion
	if c.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	allowed, refused := c.AuthorizedTTL.Duration, c.UnauthorizedTTL.Duration
	if !c.CacheAuthorizedRequests {
		allowed = 0
	}
	if !c.CacheUnauthorizedRequests {
		refused = 0
	}
	return webhook.New(config, c.SubjectAccessReviewVersion, allowed, refused, *webhook.DefaultRetryBackoff(), onError,
		c.MatchConditions, name, webhookmetrics.NoopAuthorizerMetrics{}, authorizationcel.NewDefaultCompiler())
}
