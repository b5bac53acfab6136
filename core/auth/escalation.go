package auth

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// EscalationPlugin is the name of the admission plugin that NewEscalation makes.
const EscalationPlugin = "RBACEscalation"

// Escalation is the admission check that whoever writes a role, or a binding to
// one, holds all rights in it already, or has the verb "escalate" (for roles) or
// "bind" (for bindings).
type Escalation struct {
	*admission.Handler
	rbac       *RBAC
	authorizer authorizer.UnconditionalAuthorizer
}

var _ admission.ValidationInterface = (*Escalation)(nil)

// NewEscalation checks against the rights that rbac knows; authorizer is asked
// about the verbs that excuse.
func NewEscalation(rbac *RBAC, authorizer authorizer.UnconditionalAuthorizer) *Escalation {
	return &Escalation{Handler: admission.NewHandler(admission.Create, admission.Update), rbac: rbac, authorizer: authorizer}
}

// RegisterEscalation makes the plugin known to an admission chain.
func RegisterEscalation(plugins *admission.Plugins, rbac *RBAC, authorizer authorizer.UnconditionalAuthorizer) {
	plugins.Register(EscalationPlugin, func(io.Reader) (admission.Interface, error) {
		return NewEscalation(rbac, authorizer), nil
	})
}

// Validate implements admission.ValidationInterface.
func (e *Escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" || superuser(a.GetUserInfo()) {
		return nil
	}
	switch o := a.GetObject().(type) {
	case *rbacv1.Role:
		if old, ok := a.GetOldObject().(*rbacv1.Role); ok && equality.Semantic.DeepEqual(old.Rules, o.Rules) {
			return nil
		}
		return e.role(ctx, a, o.Rules)
	case *rbacv1.ClusterRole:
		if old, ok := a.GetOldObject().(*rbacv1.ClusterRole); ok && equality.Semantic.DeepEqual(old.Rules, o.Rules) &&
			equality.Semantic.DeepEqual(old.AggregationRule, o.AggregationRule) {
			return nil
		}
		rules := o.Rules
		if o.AggregationRule != nil && len(o.AggregationRule.ClusterRoleSelectors) > 0 {
			rules = append(clone(rules), everything...) // it may come to hold any rule
		}
		return e.role(ctx, a, rules)
	case *rbacv1.RoleBinding:
		if old, ok := a.GetOldObject().(*rbacv1.RoleBinding); ok && sameBinding(old.RoleRef, o.RoleRef, old.Subjects, o.Subjects) {
			return nil
		}
		return e.binding(ctx, a, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if old, ok := a.GetOldObject().(*rbacv1.ClusterRoleBinding); ok && sameBinding(old.RoleRef, o.RoleRef, old.Subjects, o.Subjects) {
			return nil
		}
		return e.binding(ctx, a, o.RoleRef)
	}
	return nil
}

var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func sameBinding(a, b rbacv1.RoleRef, as, bs []rbacv1.Subject) bool {
	return equality.Semantic.DeepEqual(a, b) && equality.Semantic.DeepEqual(as, bs)
}

func (e *Escalation) role(ctx context.Context, a admission.Attributes, rules []rbacv1.PolicyRule) error {
	if e.may(ctx, a, "escalate", a.GetResource().Resource, nameOf(a)) {
		return nil
	}
	return e.confirm(ctx, a, rules)
}

func (e *Escalation) binding(ctx context.Context, a admission.Attributes, ref rbacv1.RoleRef) error {
	resource := "clusterroles"
	if ref.Kind == "Role" {
		resource = "roles"
	}
	if e.may(ctx, a, "bind", resource, ref.Name) {
		return nil
	}
	e.rbac.index.lock()
	rules, err := e.rbac.index.rulesOf(ref, a.GetNamespace())
	rules = clone(rules)
	e.rbac.index.mu.RUnlock()
	if err != nil {
		return apierrors.NewNotFound(rbacv1.Resource(resource[:len(resource)-1]), ref.Name)
	}
	return e.confirm(ctx, a, rules)
}

func nameOf(a admission.Attributes) string {
	if a.GetName() != "" {
		return a.GetName()
	}
	if o, ok := a.GetObject().(interface{ GetName() string }); ok {
		return o.GetName()
	}
	return ""
}

func (e *Escalation) may(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	decision, _, err := e.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource,
		Namespace: a.GetNamespace(), Name: name, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// confirm says no with the wording of Kubernetes if rules go beyond what the
// user holds.
func (e *Escalation) confirm(ctx context.Context, a admission.Attributes, rules []rbacv1.PolicyRule) error {
	u := a.GetUserInfo()
	held, err := e.rbac.Rules(ctx, u, a.GetNamespace())
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for _, r := range missing {
		lines = append(lines, compact(r))
	}
	sort.Strings(lines)
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), groups(u), strings.Join(slices.Compact(lines), "\n"))
	if err != nil {
		msg += fmt.Sprintf("; resolution errors: %v", err)
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), nameOf(a), fmt.Errorf("%s", msg))
}

func groups(u user.Info) []string { return u.GetGroups() }

// compact writes a rule on one line, as Kubernetes does in its message.
func compact(r rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
