package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"keelson.dev/keelson/core/registry/resource"
)

// holder holds the same rules for everybody.
type holder []rbacv1.PolicyRule

func (h holder) Rules(context.Context, user.Info, string) ([]rbacv1.PolicyRule, error) { return h, nil }
func (h holder) RulesOf(context.Context, rbacv1.RoleRef, string) ([]rbacv1.PolicyRule, error) {
	return h, nil
}

// verbs is an authorizer that allows these verbs.
func verbs(list ...string) authorizer.Authorizer {
	return plain{authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		for _, v := range list {
			if v == a.GetVerb() && a.GetAPIGroup() == rbacv1.GroupName {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "", nil
	})}
}

type plain struct{ authorizer.AuthorizerFunc }

func TestGuardOfRoles(t *testing.T) {
	pods := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}
	secrets := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}}
	role := func(rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: rules}
	}
	aggregated := role()
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	ann := &user.DefaultInfo{Name: "ann", Groups: []string{"dev"}}
	for name, c := range map[string]struct {
		roles    resource.RoleResolver
		asks     authorizer.Authorizer
		user     user.Info
		now, was *rbacv1.ClusterRole
		want     string // in the refusal; empty: allowed
	}{
		"what one holds":                      {holder{pods}, verbs(), ann, role(pods), nil, ""},
		"more than one holds":                 {holder{pods}, verbs(), ann, role(pods, secrets), nil, `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		"more, with escalate":                 {holder{pods}, verbs("escalate"), ann, role(secrets), nil, ""},
		"more, with bind only":                {holder{pods}, verbs("bind"), ann, role(secrets), nil, "not currently held"},
		"aggregation":                         {holder{pods}, verbs(), ann, aggregated, nil, `NonResourceURLs:["*"]`},
		"aggregation, with all rights":        {holder(everything), verbs(), ann, aggregated, nil, ""},
		"aggregation, with escalate":          {holder{}, verbs("escalate"), ann, aggregated, nil, ""},
		"aggregation added":                   {holder{pods}, verbs(), ann, aggregated, role(), "not currently held"},
		"rules of another unchanged":          {holder{}, verbs(), ann, role(secrets), role(secrets), ""},
		"rules of another added to":           {holder{pods}, verbs(), ann, role(secrets, pods), role(secrets), `["secrets"]`},
		"the server itself":                   {nil, nil, nil, role(secrets), nil, ""},
		"no resolver":                         {nil, verbs(), ann, role(pods), nil, "no resolver"},
		"no resolver, with escalate":          {nil, verbs("escalate"), ann, role(pods), nil, ""},
		"no resolver and no authorizer":       {nil, nil, ann, role(pods), nil, "no resolver"},
		"what one holds, without authorizer":  {holder{pods}, nil, ann, role(pods), nil, ""},
		"more than one holds, no authorizer ": {holder{pods}, nil, ann, role(secrets), nil, "not currently held"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.user != nil {
				ctx = request.WithUser(ctx, c.user)
			}
			g := guard{resource.NewEnv(resource.Config{Roles: c.roles, Authorizer: c.asks})}
			var err error
			if c.was == nil {
				err = g.check(ctx, c.now, nil)
			} else {
				err = g.check(ctx, c.now, c.was)
			}
			if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
