package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	rbacvalidation "k8s.io/component-helpers/auth/rbac/validation"

	"keelson.dev/keelson/core/registry/resource"
)

// everything is what who writes an aggregated role must have: its rules can become anything.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// guarded is a store whose writers may not give rights away that they do not have.
type guarded struct {
	*resource.Store
	guard guard
}

// Create implements rest.Creater.
func (g *guarded) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := g.guard.check(ctx, obj, nil); err != nil {
		return nil, err
	}
	return g.Store.Create(ctx, obj, validate, options)
}

// Update implements rest.Updater.
func (g *guarded) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	checked := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		return obj, g.guard.check(ctx, obj, old)
	})
	return g.Store.Update(ctx, name, checked, create, update, force, options)
}

// guard decides whether the user of a request may give rights away.
type guard struct{ env *resource.Env }

// check refuses an object that would give its writer, or others, what the writer does not have.
func (g guard) check(ctx context.Context, obj, old runtime.Object) error {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok { // the server itself
		return nil
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	switch o := obj.(type) {
	case *rbacv1.Role:
		if was, ok := old.(*rbacv1.Role); ok && apiequality.Semantic.DeepEqual(o.Rules, was.Rules) {
			return nil
		}
		return g.role(ctx, u, "roles", o.Name, namespace, o.Rules)
	case *rbacv1.ClusterRole:
		rules := o.Rules
		if o.AggregationRule != nil {
			rules = everything
		}
		if was, ok := old.(*rbacv1.ClusterRole); ok && apiequality.Semantic.DeepEqual(o.Rules, was.Rules) &&
			apiequality.Semantic.DeepEqual(o.AggregationRule, was.AggregationRule) {
			return nil
		}
		return g.role(ctx, u, "clusterroles", o.Name, "", rules)
	case *rbacv1.RoleBinding:
		if was, ok := old.(*rbacv1.RoleBinding); ok && o.RoleRef == was.RoleRef && apiequality.Semantic.DeepEqual(o.Subjects, was.Subjects) {
			return nil
		}
		return g.binding(ctx, u, "rolebindings", o.Name, namespace, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if was, ok := old.(*rbacv1.ClusterRoleBinding); ok && o.RoleRef == was.RoleRef && apiequality.Semantic.DeepEqual(o.Subjects, was.Subjects) {
			return nil
		}
		return g.binding(ctx, u, "clusterrolebindings", o.Name, "", o.RoleRef)
	}
	return nil
}

func (g guard) role(ctx context.Context, u user.Info, plural, name, namespace string, rules []rbacv1.PolicyRule) error {
	if g.may(ctx, authorizer.AttributesRecord{User: u, Verb: "escalate", APIGroup: rbacv1.GroupName, APIVersion: "v1",
		Resource: plural, Name: name, Namespace: namespace, ResourceRequest: true}) {
		return nil
	}
	if err := g.covers(ctx, u, namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(plural), name, err)
	}
	return nil
}

func (g guard) binding(ctx context.Context, u user.Info, plural, name, namespace string, ref rbacv1.RoleRef) error {
	role := "clusterroles"
	if ref.Kind == "Role" {
		role = "roles"
	}
	if g.may(ctx, authorizer.AttributesRecord{User: u, Verb: "bind", APIGroup: rbacv1.GroupName, APIVersion: "v1",
		Resource: role, Name: ref.Name, Namespace: namespace, ResourceRequest: true}) {
		return nil
	}
	store := g.env.Store(rbacv1.GroupName, role)
	obj, err := store.Get(ctx, ref.Name, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	var rules []rbacv1.PolicyRule
	switch o := obj.(type) {
	case *rbacv1.Role:
		rules = o.Rules
	case *rbacv1.ClusterRole:
		rules = o.Rules
		if o.AggregationRule != nil { // the object may be behind what the role holds
			if rules, err = g.rulesOf(ctx, ref, namespace); err != nil {
				return apierrors.NewForbidden(rbacv1.Resource(plural), name, err)
			}
		}
	}
	if err := g.covers(ctx, u, namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(plural), name, err)
	}
	return nil
}

// errNoRoles is the answer of a registry that was given nobody to ask.
var errNoRoles = errors.New("what its writer may do is not known: the server has no resolver of roles")

func (g guard) rulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if g.env.Roles == nil {
		return nil, errNoRoles
	}
	return g.env.Roles.RulesOf(ctx, ref, namespace)
}

// covers says no, in the wording of Kubernetes, if rules go beyond what the user
// holds.
func (g guard) covers(ctx context.Context, u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	if g.env.Roles == nil {
		return errNoRoles
	}
	held, err := g.env.Roles.Rules(ctx, u, namespace)
	covered, missing := rbacvalidation.Covers(held, rules)
	if covered {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for _, r := range compacted(missing) {
		lines = append(lines, inOneLine(r))
	}
	slices.Sort(lines)
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if err != nil {
		msg += fmt.Sprintf("; resolution errors: %v", err)
	}
	return errors.New(msg)
}

// compacted joins rules of one resource that differ in their verbs only.
func compacted(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	at := map[string]int{}
	for _, r := range rules {
		if len(r.NonResourceURLs) > 0 || len(r.ResourceNames) > 1 || len(r.APIGroups) != 1 || len(r.Resources) != 1 {
			out = append(out, r)
			continue
		}
		key := r.APIGroups[0] + "/" + r.Resources[0] + "/" + strings.Join(r.ResourceNames, "")
		if i, ok := at[key]; ok {
			out[i].Verbs = append(out[i].Verbs, r.Verbs...)
			continue
		}
		at[key] = len(out)
		out = append(out, *r.DeepCopy())
	}
	return out
}

// inOneLine writes a rule as Kubernetes does in its message.
func inOneLine(r rbacv1.PolicyRule) string {
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

func (g guard) may(ctx context.Context, a authorizer.AttributesRecord) bool {
	if g.env.Authorizer == nil {
		return false
	}
	decision, _, err := g.env.Authorizer.Authorize(ctx, a)
	return err == nil && decision == authorizer.DecisionAllow
}
