package review

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
)

// authorizationTimeout bounds an answer about an access.
const authorizationTimeout = 3 * time.Second

// rights asks authorization plugins.
type rights struct{ set *Set }

var (
	_ authorizer.Authorizer   = rights{}
	_ authorizer.RuleResolver = rights{}
)

// Authorizer asks authorization plugins, in the order of their names; the first that
// allows or denies decides.
func (s *Set) Authorizer() authorizer.Authorizer {
	s.unused.Store(false)
	return rights{s}
}

// Authorize implements authorizer.Authorizer.
func (r rights) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	list := r.set.authorization.Load()
	if list == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	question := access(a)
	var reason string
	var errs []error
	for _, p := range *list {
		answer, err := p.authorize(ctx, question)
		if err != nil {
			if p.denyOnFailure.Load() {
				audit.AddAuditAnnotation(ctx, "authorization.keelson.dev/plugin", p.name)
				return authorizer.DecisionDeny, fmt.Sprintf("authorization plugin %q does not answer: %s", p.name, err), nil
			}
			errs = append(errs, fmt.Errorf("authorization plugin %q: %w", p.name, err))
			continue
		}
		switch answer.GetOutcome() {
		case authorizationv1.Outcome_OUTCOME_ALLOW:
			audit.AddAuditAnnotation(ctx, "authorization.keelson.dev/plugin", p.name)
			return authorizer.DecisionAllow, because(p, "allowed", answer), nil
		case authorizationv1.Outcome_OUTCOME_DENY:
			audit.AddAuditAnnotation(ctx, "authorization.keelson.dev/plugin", p.name)
			return authorizer.DecisionDeny, because(p, "denied", answer), nil
		}
		if answer.GetReason() != "" {
			reason = because(p, "no opinion", answer)
		}
	}
	return authorizer.DecisionNoOpinion, reason, errors.Join(errs...)
}

func because(p *plugin, what string, answer *authorizationv1.Decision) string {
	text := fmt.Sprintf("authorization plugin %q: %s", p.name, what)
	if answer.GetReason() != "" {
		text += ": " + answer.GetReason()
	}
	return text
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; plugins know no conditions.
func (r rights) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (rights) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver: plugins cannot list their rules, so that the
// answer is incomplete where there are any.
func (r rights) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return nil, nil, r.set.authorization.Load() != nil, nil
}

// authorize asks one plugin, or remembers.
func (p *plugin) authorize(ctx context.Context, question *authorizationv1.Access) (*authorizationv1.Decision, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(question)
	if err != nil {
		return nil, err
	}
	sum, known := sha256.Sum256(raw), p.answers.Load()
	key := string(sum[:])
	if answer, ok := known.remembered.Get(key); ok {
		remembered.WithLabelValues(p.kind, p.name).Inc()
		return answer.(*authorizationv1.Decision), nil
	}
	begin := time.Now()
	answer, err := p.batch.ask(ctx, p, question)
	if err != nil {
		p.observe(begin, outcomeFailed)
		return nil, err
	}
	most, outcome := longestNotAuthorized, outcomeNoOpinion
	switch answer.GetOutcome() {
	case authorizationv1.Outcome_OUTCOME_ALLOW:
		most, outcome = longestPositive, outcomeAllowed
	case authorizationv1.Outcome_OUTCOME_DENY:
		outcome = outcomeDenied
	case authorizationv1.Outcome_OUTCOME_NO_OPINION:
	default:
		p.observe(begin, outcomeFailed)
		return nil, fmt.Errorf("its outcome %s is not valid", answer.GetOutcome())
	}
	p.observe(begin, outcome)
	known.remember(key, answer, answer.GetCacheTtl().AsDuration(), most)
	return answer, nil
}

// access is a question in the form of the contract.
func access(a authorizer.Attributes) *authorizationv1.Access {
	q := &authorizationv1.Access{Verb: a.GetVerb()}
	if u := a.GetUser(); u != nil {
		q.User = &authorizationv1.UserInfo{Username: u.GetName(), Uid: u.GetUID(), Groups: u.GetGroups(), Extra: map[string]*authorizationv1.ExtraValue{}}
		for key, values := range u.GetExtra() {
			q.User.Extra[key] = &authorizationv1.ExtraValue{Values: values}
		}
	}
	if !a.IsResourceRequest() {
		q.What = &authorizationv1.Access_NonResource{NonResource: &authorizationv1.NonResourceAttributes{Path: a.GetPath()}}
		return q
	}
	what := &authorizationv1.ResourceAttributes{
		Group: a.GetAPIGroup(), Version: a.GetAPIVersion(), Resource: a.GetResource(), Subresource: a.GetSubresource(),
		Namespace: a.GetNamespace(), Name: a.GetName(),
	}
	// A selector that cannot be read is left out: the question is then about all.
	if list, err := a.GetFieldSelector(); err == nil {
		for i, r := range list {
			if i > 0 {
				what.FieldSelector += ","
			}
			what.FieldSelector += r.Field + string(r.Operator) + r.Value
		}
	}
	if list, err := a.GetLabelSelector(); err == nil {
		for i, r := range list {
			if i > 0 {
				what.LabelSelector += ","
			}
			what.LabelSelector += r.String()
		}
	}
	q.What = &authorizationv1.Access_Resource{Resource: what}
	return q
}
