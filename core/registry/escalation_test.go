package registry_test

import (
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEscalation: who writes a binding holds all of its role, or may bind it; who
// writes a role holds all of it, or may escalate it.
func TestEscalation(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	rule := func(group, resource, name string, verbs ...string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}}
		if name != "" {
			r.ResourceNames = []string{name}
		}
		return r
	}
	rbac := s.admin.RbacV1()
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	gathers := func(name string) *rbacv1.ClusterRole {
		r := role(name)
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "sum"}}}}
		return r
	}
	write := rule(rbacv1.GroupName, "*", "", "create", "get", "update")
	part := role("part", rule("", "secrets", "", "get"))
	part.Labels = map[string]string{"to": "sum"}
	for _, r := range []*rbacv1.ClusterRole{
		role("plain", write, rule("", "pods", "", "get")),
		role("escalates", write, rule(rbacv1.GroupName, "clusterroles", "", "escalate")),
		role("binds", write, rule(rbacv1.GroupName, "clusterroles", "beyond", "bind")),
		role("held", rule("", "pods", "", "get")), role("beyond", rule("", "secrets", "", "get")), part, gathers("sum"),
	} {
		if _, err := rbac.ClusterRoles().Create(ctx, r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	binding := func(name, role, user string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}}
	}
	for _, name := range []string{"plain", "escalates", "binds"} {
		if _, err := rbac.ClusterRoleBindings().Create(ctx, binding(name, name, name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, user string
		role       *rbacv1.ClusterRole // to be written, or
		bind       string              // the role to be bound
		allowed    bool
	}{
		{"a role that one holds", "plain", role("a", rule("", "pods", "", "get")), "", true},
		{"a role that one does not hold", "plain", role("b", rule("", "secrets", "", "get")), "", false},
		{"with escalate", "escalates", role("c", rule("", "secrets", "", "get")), "", true},
		{"escalate is not bind", "escalates", nil, "beyond", false},
		{"an aggregating role", "plain", gathers("d"), "", false},
		{"an aggregating role with escalate", "escalates", gathers("e"), "", true},
		{"binding what one holds", "plain", nil, "held", true},
		{"binding what one does not hold", "plain", nil, "beyond", false},
		{"binding it with bind of its name", "binds", nil, "beyond", true},
		{"bind is of one name only", "binds", nil, "part", false},
		{"bind is not escalate", "binds", role("f", rule("", "secrets", "", "get")), "", false},
		{"binding what an aggregating role holds", "plain", nil, "sum", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := s.as(t, c.user).RbacV1()
			try := func() (err error) {
				if c.role != nil {
					_, err = as.ClusterRoles().Create(ctx, c.role, metav1.CreateOptions{})
				} else {
					_, err = as.ClusterRoleBindings().Create(ctx, binding(c.user+"-"+c.bind, c.bind, "eve"), metav1.CreateOptions{})
				}
				return err
			}
			err := try()
			// Until the authorizer knows the binding of this user, all is forbidden to it.
			known := func() bool { return err == nil || strings.Contains(err.Error(), "not currently held") }
			for deadline := time.Now().Add(time.Minute); !known() && time.Now().Before(deadline); {
				err = try()
			}
			if c.allowed && err != nil || !c.allowed && (!apierrors.IsForbidden(err) || !known()) {
				t.Errorf("got %v, want allowed: %t", err, c.allowed)
			}
		})
	}
}
