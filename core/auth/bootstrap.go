package auth

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// bootstrapParallel is how many objects are written at once; the store commits
// them together, with one sync, and on a slow disk the syncs are most of a first
// start.
const bootstrapParallel = 48

// Bootstrap writes the default roles and bindings that are missing, and adds to
// those that have lost a rule or subject. What an administrator added stays, and
// so does an object annotated with autoupdate "false". Two lists are all it
// costs when nothing is to do.
func Bootstrap(ctx context.Context, client kubernetes.Interface) error {
	var g errgroup.Group // one object's failure must not hide behind the others' cancellation
	g.SetLimit(bootstrapParallel)
	err := reconcileRoles(ctx, &g, client)
	if err == nil {
		err = reconcileBindings(ctx, &g, client)
	}
	return cmp.Or(g.Wait(), err)
}

// BootstrapNamespaced does the same for roles and bindings in namespaces, which
// have to be there. Four lists are all it costs when nothing is to do.
func BootstrapNamespaced(ctx context.Context, client kubernetes.Interface) error {
	haveRoles, haveBindings := map[types.NamespacedName]*rbacv1.Role{}, map[types.NamespacedName]*rbacv1.RoleBinding{}
	for _, ns := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		roles, err := client.RbacV1().Roles(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list roles: %w", err)
		}
		for i := range roles.Items {
			haveRoles[keyOf(&roles.Items[i])] = &roles.Items[i]
		}
		bindings, err := client.RbacV1().RoleBindings(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list role bindings: %w", err)
		}
		for i := range bindings.Items {
			haveBindings[keyOf(&bindings.Items[i])] = &bindings.Items[i]
		}
	}
	var g errgroup.Group
	g.SetLimit(bootstrapParallel)
	for _, r := range Roles() {
		g.Go(func() error { return ensureRole(ctx, client, r, haveRoles[keyOf(r)]) })
	}
	for _, b := range RoleBindings() {
		g.Go(func() error { return ensureBinding(ctx, client, b, haveBindings[keyOf(b)]) })
	}
	return g.Wait()
}

// mine says whether a default object is to be repaired.
func mine(o metav1.Object) bool { return o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "false" }

func ensureRole(ctx context.Context, client kubernetes.Interface, want, have *rbacv1.Role) error {
	roles := client.RbacV1().Roles(want.Namespace)
	var err error
	switch {
	case have == nil:
		_, err = roles.Create(ctx, want, metav1.CreateOptions{})
	case mine(have):
		if ok, missing := validation.Covers(have.Rules, want.Rules); !ok {
			have.Rules = append(have.Rules, missing...)
			_, err = roles.Update(ctx, have, metav1.UpdateOptions{})
		}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ensure role %s/%s: %w", want.Namespace, want.Name, err)
	}
	return nil
}

func ensureBinding(ctx context.Context, client kubernetes.Interface, want, have *rbacv1.RoleBinding) error {
	bindings := client.RbacV1().RoleBindings(want.Namespace)
	var err error
	switch {
	case have == nil:
		_, err = bindings.Create(ctx, want, metav1.CreateOptions{})
	case mine(have) && have.RoleRef == want.RoleRef:
		before := len(have.Subjects)
		for _, s := range want.Subjects {
			if !slices.Contains(have.Subjects, s) {
				have.Subjects = append(have.Subjects, s)
			}
		}
		if len(have.Subjects) > before {
			_, err = bindings.Update(ctx, have, metav1.UpdateOptions{})
		}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ensure role binding %s/%s: %w", want.Namespace, want.Name, err)
	}
	return nil
}

func reconcileRoles(ctx context.Context, g *errgroup.Group, client kubernetes.Interface) error {
	list, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	have := make(map[string]*rbacv1.ClusterRole, len(list.Items))
	for i := range list.Items {
		have[list.Items[i].Name] = &list.Items[i]
	}
	for _, r := range ClusterRoles() {
		opts := reconciliation.ReconcileRoleOptions{
			Role: reconciliation.ClusterRoleRuleOwner{ClusterRole: r}, Confirm: true,
			Client: &roleClient{ctx: ctx, client: client, have: have[r.Name]},
		}
		g.Go(func() error {
			// Another server of a group may be at it as well.
			err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { _, err := opts.Run(); return err })
			if err != nil {
				return fmt.Errorf("reconcile cluster role %s: %w", r.Name, err)
			}
			return nil
		})
	}
	return nil
}

// roleClient answers the first Get from a list.
type roleClient struct {
	ctx    context.Context // of Bootstrap, whose helper this is
	client kubernetes.Interface
	have   *rbacv1.ClusterRole
	asked  bool
}

func (c *roleClient) Get(_, name string) (reconciliation.RuleOwner, error) {
	if !c.asked {
		c.asked = true
		if c.have == nil {
			return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
		}
		return reconciliation.ClusterRoleRuleOwner{ClusterRole: c.have}, nil
	}
	r, err := c.client.RbacV1().ClusterRoles().Get(c.ctx, name, metav1.GetOptions{})
	return reconciliation.ClusterRoleRuleOwner{ClusterRole: r}, err
}

func (c *roleClient) Create(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	r, err := c.client.RbacV1().ClusterRoles().Create(c.ctx, in.(reconciliation.ClusterRoleRuleOwner).ClusterRole, metav1.CreateOptions{})
	return reconciliation.ClusterRoleRuleOwner{ClusterRole: r}, err
}

func (c *roleClient) Update(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	r, err := c.client.RbacV1().ClusterRoles().Update(c.ctx, in.(reconciliation.ClusterRoleRuleOwner).ClusterRole, metav1.UpdateOptions{})
	return reconciliation.ClusterRoleRuleOwner{ClusterRole: r}, err
}

func reconcileBindings(ctx context.Context, g *errgroup.Group, client kubernetes.Interface) error {
	list, err := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list cluster role bindings: %w", err)
	}
	have := make(map[string]*rbacv1.ClusterRoleBinding, len(list.Items))
	for i := range list.Items {
		have[list.Items[i].Name] = &list.Items[i]
	}
	for _, b := range ClusterRoleBindings() {
		opts := reconciliation.ReconcileRoleBindingOptions{
			RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b}, Confirm: true,
			Client: &bindingClient{ctx: ctx, client: client, have: have[b.Name]},
		}
		g.Go(func() error {
			err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { _, err := opts.Run(); return err })
			if err != nil {
				return fmt.Errorf("reconcile cluster role binding %s: %w", b.Name, err)
			}
			return nil
		})
	}
	return nil
}

// bindingClient answers the first Get from a list.
type bindingClient struct {
	ctx    context.Context // of Bootstrap, whose helper this is
	client kubernetes.Interface
	have   *rbacv1.ClusterRoleBinding
	asked  bool
}

func (c *bindingClient) Get(_, name string) (reconciliation.RoleBinding, error) {
	if !c.asked {
		c.asked = true
		if c.have == nil {
			return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrolebindings"), name)
		}
		return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: c.have}, nil
	}
	b, err := c.client.RbacV1().ClusterRoleBindings().Get(c.ctx, name, metav1.GetOptions{})
	return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b}, err
}

func (c *bindingClient) Delete(_, name string, uid types.UID) error {
	return c.client.RbacV1().ClusterRoleBindings().Delete(c.ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
}

func (c *bindingClient) Create(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	b, err := c.client.RbacV1().ClusterRoleBindings().Create(c.ctx, in.(reconciliation.ClusterRoleBindingAdapter).ClusterRoleBinding, metav1.CreateOptions{})
	return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b}, err
}

func (c *bindingClient) Update(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	b, err := c.client.RbacV1().ClusterRoleBindings().Update(c.ctx, in.(reconciliation.ClusterRoleBindingAdapter).ClusterRoleBinding, metav1.UpdateOptions{})
	return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b}, err
}

// EnsurePluginRole gives the user system:plugin:NAME just the rules given, by a
// ClusterRole and a ClusterRoleBinding of the same name. It may be repeated.
func EnsurePluginRole(ctx context.Context, client kubernetes.Interface, name string, rules []rbacv1.PolicyRule) error {
	return ensureUserRole(ctx, client, "system:plugin:"+name, rules)
}

// ensureUserRole gives the user of a name just the rules given.
func ensureUserRole(ctx context.Context, client kubernetes.Interface, full string, rules []rbacv1.PolicyRule) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return ensurePluginRole(ctx, client, full, rules) })
	if err != nil {
		return fmt.Errorf("ensure cluster role %s: %w", full, err)
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { return ensurePluginBinding(ctx, client, full) })
	if err != nil {
		return fmt.Errorf("ensure cluster role binding %s: %w", full, err)
	}
	return nil
}

func pluginMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "keelson"}}
}

func ensurePluginRole(ctx context.Context, client kubernetes.Interface, name string, rules []rbacv1.PolicyRule) error {
	roles := client.RbacV1().ClusterRoles()
	got, err := roles.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: pluginMeta(name), Rules: rules}, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(got.Rules, rules) {
		return err
	}
	got = got.DeepCopy()
	got.Rules = rules
	_, err = roles.Update(ctx, got, metav1.UpdateOptions{})
	return err
}

func ensurePluginBinding(ctx context.Context, client kubernetes.Interface, name string) error {
	bindings := client.RbacV1().ClusterRoleBindings()
	want := &rbacv1.ClusterRoleBinding{
		ObjectMeta: pluginMeta(name),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{userNamed(name)},
	}
	got, err := bindings.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = bindings.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if got.RoleRef != want.RoleRef { // immutable: make it anew
		if err := bindings.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		_, err = bindings.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if equality.Semantic.DeepEqual(got.Subjects, want.Subjects) {
		return nil
	}
	got = got.DeepCopy()
	got.Subjects = want.Subjects
	_, err = bindings.Update(ctx, got, metav1.UpdateOptions{})
	return err
}
