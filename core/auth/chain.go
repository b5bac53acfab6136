package auth

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Chain asks authorizers in order; the first that allows or denies decides.
// Members of system:masters may do everything, whatever the authorizers say, and shadows
// of plugins nothing but read. The
// list may be replaced while it is used.
type Chain struct {
	list atomic.Pointer[[]authorizer.Authorizer]
}

var (
	_ authorizer.Authorizer   = (*Chain)(nil)
	_ authorizer.RuleResolver = (*Chain)(nil)
)

// NewChain returns a Chain over list.
func NewChain(list ...authorizer.Authorizer) *Chain {
	c := &Chain{}
	c.Set(list...)
	return c
}

// Set replaces the authorizers. Decisions under way are made by the last ones.
func (c *Chain) Set(list ...authorizer.Authorizer) { c.list.Store(&list) }

// Authorize implements authorizer.Authorizer.
func (c *Chain) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if superuser(a.GetUser()) {
		return authorizer.DecisionAllow, "", nil
	}
	if shadow(a.GetUser()) {
		if refused, reason := refuseShadow(a); refused {
			return authorizer.DecisionDeny, reason, nil
		}
	}
	var reasons []string
	var errs []error
	for _, one := range *c.list.Load() {
		decision, reason, err := one.Authorize(ctx, a)
		if decision == authorizer.DecisionAllow || decision == authorizer.DecisionDeny {
			return decision, reason, err
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return authorizer.DecisionNoOpinion, strings.Join(reasons, "\n"), errors.Join(errs...)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; no authorizer here
// has conditions.
func (c *Chain) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(c.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (c *Chain) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver: the rules of all authorizers that
// can list theirs; the answer is incomplete if one cannot.
func (c *Chain) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	var incomplete bool
	var errs []error
	if superuser(u) {
		resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}})
		paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}})
	}
	for _, one := range *c.list.Load() {
		resolver, ok := one.(authorizer.RuleResolver)
		if !ok {
			incomplete = true
			continue
		}
		r, p, part, err := resolver.RulesFor(ctx, u, namespace)
		resources, paths, incomplete = append(resources, r...), append(paths, p...), incomplete || part
		if err != nil {
			errs = append(errs, err)
		}
	}
	return resources, paths, incomplete, errors.Join(errs...)
}

// plain makes an authorizer of one function, without conditions.
type plain struct{}

// EvaluateConditions implements authorizer.Authorizer.
func (plain) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
