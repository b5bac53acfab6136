package rbac

import (
	"context"
	"fmt"
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
	if g.env.Authorizer == nil || !ok { // the server itself
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
	}
	if err := g.covers(ctx, u, namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(plural), name, err)
	}
	return nil
}

// covers says whether the user has all the rights of the rules.
func (g guard) covers(ctx context.Context, u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	var missing []rbacv1.PolicyRule
	for _, rule := range rules {
		for _, one := range rbacvalidation.BreakdownRule(rule) {
			if !g.may(ctx, attributes(u, namespace, one)) {
				missing = append(missing, one)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var text strings.Builder
	for _, m := range missing {
		fmt.Fprintf(&text, "\n{APIGroups:%q, Resources:%q, ResourceNames:%q, NonResourceURLs:%q, Verbs:%q}", m.APIGroups, m.Resources, m.ResourceNames, m.NonResourceURLs, m.Verbs)
	}
	return fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:%s", u.GetName(), u.GetGroups(), text.String())
}

// attributes makes the request that a rule of one verb and one target allows.
func attributes(u user.Info, namespace string, r rbacv1.PolicyRule) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{User: u, Namespace: namespace, APIVersion: "*"}
	if len(r.Verbs) > 0 {
		a.Verb = r.Verbs[0]
	}
	if len(r.NonResourceURLs) > 0 {
		a.Path = r.NonResourceURLs[0]
		return a
	}
	a.ResourceRequest = true
	if len(r.APIGroups) > 0 {
		a.APIGroup = r.APIGroups[0]
	}
	if len(r.Resources) > 0 {
		a.Resource = r.Resources[0]
		for i := range a.Resource {
			if a.Resource[i] == '/' {
				a.Resource, a.Subresource = r.Resources[0][:i], r.Resources[0][i+1:]
				break
			}
		}
	}
	if len(r.ResourceNames) > 0 {
		a.Name = r.ResourceNames[0]
	}
	return a
}

func (g guard) may(ctx context.Context, a authorizer.AttributesRecord) bool {
	decision, _, err := g.env.Authorizer.Authorize(ctx, a)
	return err == nil && decision == authorizer.DecisionAllow
}
