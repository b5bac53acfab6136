package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

// RBAC authorizes by the Role, ClusterRole, RoleBinding and ClusterRoleBinding
// objects. It never denies: what no rule allows, it has no opinion of.
// Members of system:masters may do everything.
//
// Until its informers have synced, a request of anybody else waits: a server
// that has just started must not answer "forbidden" to those it does not know
// yet.
type RBAC struct {
	index *index

	synced    chan struct{} // closed when the index is complete
	closeOnce sync.Once
	changed   chan struct{} // holds one token: a ClusterRole is another one
}

var (
	_ authorizer.Authorizer   = (*RBAC)(nil)
	_ authorizer.RuleResolver = (*RBAC)(nil)
)

// syncWait is how long a request waits for the index; a start takes well under
// a second.
const syncWait = 10 * time.Second

var errNotSynced = errors.New("RBAC objects are not loaded yet")

// NewRBAC returns an authorizer that knows no rule until Watch feeds it.
func NewRBAC() *RBAC {
	return &RBAC{index: newIndex(), synced: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// Watch keeps the index current from factory, which its caller starts
// afterwards. The function returned waits until the index is complete.
func (r *RBAC) Watch(factory informers.SharedInformerFactory) (wait func(ctx context.Context) error, err error) {
	f := factory.Rbac().V1()
	var synced []cache.InformerSynced
	for _, i := range []cache.SharedIndexInformer{
		f.ClusterRoles().Informer(), f.Roles().Informer(), f.ClusterRoleBindings().Informer(), f.RoleBindings().Informer(),
	} {
		reg, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    r.set,
			UpdateFunc: func(_, o any) { r.set(o) },
			DeleteFunc: r.remove,
		})
		if err != nil {
			return nil, fmt.Errorf("watch RBAC objects: %w", err)
		}
		synced = append(synced, reg.HasSynced)
	}
	return func(ctx context.Context) error {
		if !cache.WaitForCacheSync(ctx.Done(), synced...) {
			return fmt.Errorf("wait for RBAC objects: %w", context.Cause(ctx))
		}
		r.closeOnce.Do(func() { close(r.synced) })
		return nil
	}, nil
}

func (r *RBAC) set(o any) {
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		r.index.setRole(o, o.Rules, o.AggregationRule)
		r.notify()
	case *rbacv1.Role:
		r.index.setRole(o, o.Rules, nil)
	case *rbacv1.ClusterRoleBinding:
		r.index.setBinding(o, o.RoleRef, o.Subjects)
	case *rbacv1.RoleBinding:
		r.index.setBinding(o, o.RoleRef, o.Subjects)
	}
}

func (r *RBAC) remove(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	switch o := o.(type) {
	case *rbacv1.ClusterRole, *rbacv1.Role:
		r.index.deleteRole(keyOf(o.(metav1.Object)))
		r.notify()
	case *rbacv1.ClusterRoleBinding, *rbacv1.RoleBinding:
		r.index.deleteBinding(keyOf(o.(metav1.Object)))
	}
}

func (r *RBAC) notify() {
	select {
	case r.changed <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// aggregateAgain is the pause after a ClusterRole could not be written.
const aggregateAgain = 5 * time.Second

// Aggregate keeps the rules in the objects of aggregating ClusterRoles what they
// are in effect, so that people see them, until ctx ends. It acts on changes.
func (r *RBAC) Aggregate(ctx context.Context, client kubernetes.Interface) error {
	if err := r.ready(ctx); err != nil {
		<-ctx.Done()
		return nil // whoever waits for the index has told
	}
	roles := client.RbacV1().ClusterRoles()
	for {
		var failed bool
		for name, rules := range r.index.outdated() {
			err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
				role, err := roles.Get(ctx, name, metav1.GetOptions{})
				if err != nil || role.AggregationRule == nil || equality.Semantic.DeepEqual(role.Rules, rules) {
					return err
				}
				role.Rules = rules
				_, err = roles.Update(ctx, role, metav1.UpdateOptions{FieldManager: "clusterrole-aggregation-controller"})
				return err
			})
			failed = failed || err != nil && !apierrors.IsNotFound(err)
		}
		var again <-chan time.Time
		if failed {
			again = time.After(aggregateAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
		case <-again:
		}
	}
}

// Authorize implements authorizer.Authorizer.
func (r *RBAC) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if superuser(u) {
		return authorizer.DecisionAllow, "", nil
	}
	if err := r.ready(ctx); err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	by, errs := "", []string(nil)
	r.visit(u, a.GetNamespace(), func(b *binding, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			errs = append(errs, err.Error())
			return true
		}
		if allows(rule, a) {
			by = b.reason
			return false
		}
		return true
	})
	switch {
	case by != "":
		return authorizer.DecisionAllow, by, nil
	case len(errs) > 0:
		return authorizer.DecisionNoOpinion, "RBAC: " + strings.Join(errs, ", "), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer; RBAC has no
// conditions.
func (r *RBAC) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(r.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer; RBAC has no conditions.
func (r *RBAC) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver.
func (r *RBAC) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := r.Rules(ctx, u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for _, p := range rules {
		if len(p.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: p.Verbs, APIGroups: p.APIGroups, Resources: p.Resources, ResourceNames: p.ResourceNames,
			})
		}
		if len(p.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: p.Verbs, NonResourceURLs: p.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}

// Rules returns all rules that hold for u in namespace, or, if that is empty,
// in the whole cluster.
func (r *RBAC) Rules(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	var rules []rbacv1.PolicyRule
	var errs []error
	r.visit(u, namespace, func(_ *binding, rule *rbacv1.PolicyRule, err error) bool {
		if err != nil {
			errs = append(errs, err)
		} else {
			rules = append(rules, *rule)
		}
		return true
	})
	return rules, errors.Join(errs...)
}

// RulesOf returns the rules of a role as a binding in namespace names it.
func (r *RBAC) RulesOf(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	r.index.lock()
	defer r.index.mu.RUnlock()
	rules, err := r.index.rulesOf(ref, namespace)
	return clone(rules), err
}

func (r *RBAC) ready(ctx context.Context) error {
	select {
	case <-r.synced:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeoutCause(ctx, syncWait, errNotSynced)
	defer cancel()
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func superuser(u user.Info) bool {
	if u == nil {
		return false
	}
	return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}

// visit calls f for each rule of u until it returns false. f must not call back
// into r.
func (r *RBAC) visit(u user.Info, namespace string, f func(*binding, *rbacv1.PolicyRule, error) bool) {
	if u == nil {
		return
	}
	r.index.lock()
	defer r.index.mu.RUnlock()
	if r.visitScope(u, "", f) && namespace != "" {
		r.visitScope(u, namespace, f)
	}
}

// visitScope visits the bindings of one namespace, or, if that is empty, those
// of the whole cluster. It returns false when f did.
func (r *RBAC) visitScope(u user.Info, namespace string, f func(*binding, *rbacv1.PolicyRule, error) bool) bool {
	bySubject := r.index.subjects[namespace]
	if len(bySubject) == 0 {
		return true
	}
	if !r.visitBindings(bySubject[subject{name: u.GetName()}], namespace, f) {
		return false
	}
	for _, g := range u.GetGroups() {
		if !r.visitBindings(bySubject[subject{group: true, name: g}], namespace, f) {
			return false
		}
	}
	return true
}

func (r *RBAC) visitBindings(bindings map[*binding]struct{}, namespace string, f func(*binding, *rbacv1.PolicyRule, error) bool) bool {
	for b := range bindings {
		rules, err := r.index.rulesOf(b.ref, namespace)
		if err != nil {
			if !f(b, nil, err) {
				return false
			}
			continue
		}
		for i := range rules {
			if !f(b, &rules[i], nil) {
				return false
			}
		}
	}
	return true
}
