package auth

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
)

// TestShadowsOnlyRead: whoever allows them whatever, shadows of plugins read and do no more.
func TestShadowsOnlyRead(t *testing.T) {
	all := rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}
	paths := rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}
	chain := NewChain(loaded(
		&rbacv1.ClusterRole{ObjectMeta: meta("", "all", ""), Rules: []rbacv1.PolicyRule{all, paths}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: meta("", "all", ""), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "all"},
			Subjects: []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "system:authenticated"}}},
	))
	who := someone(ShadowPrefix+"scheduler", ShadowsGroup, "system:authenticated")
	other := someone("system:plugin:scheduler", "system:authenticated")
	for _, c := range []struct {
		verb, group, resource, sub string
		allowed                    bool
	}{
		{"get", "", "pods", "", true},
		{"list", "", "pods", "", true},
		{"watch", "", "nodes", "", true},
		{"get", "", "pods", "log", true},
		{"get", "", "pods", "exec", false},
		{"get", "", "pods", "attach", false},
		{"get", "", "pods", "portforward", false},
		{"get", "", "services", "proxy", false},
		{"get", "", "nodes", "proxy", false},
		{"create", "", "pods", "", false},
		{"create", "", "pods", "binding", false},
		{"create", "", "bindings", "", false},
		{"create", "", "pods", "eviction", false},
		{"update", "", "pods", "status", false},
		{"patch", "", "pods", "status", false},
		{"delete", "", "pods", "", false},
		{"deletecollection", "", "pods", "", false},
		{"create", "events.k8s.io", "events", "", false},
		{"impersonate", "", "users", "", false},
		{"bind", "rbac.authorization.k8s.io", "clusterroles", "", false},
		{"escalate", "rbac.authorization.k8s.io", "clusterroles", "", false},
		{"approve", "certificates.k8s.io", "signers", "", false},
		{"create", "authentication.k8s.io", "tokenreviews", "", false},
		{"create", "authorization.k8s.io", "subjectaccessreviews", "", false},
		{"create", "authorization.k8s.io", "selfsubjectaccessreviews", "", false},
		{"create", "", "serviceaccounts", "token", false},
		{"use", "", "anything", "", false},
	} {
		d, reason, err := chain.Authorize(t.Context(), request(who, c.verb, "ns", c.group, c.resource, c.sub, ""))
		if allowed := d == authorizer.DecisionAllow; allowed != c.allowed || err != nil {
			t.Errorf("%s %s/%s: got %v %q %v", c.verb, c.resource, c.sub, d, reason, err)
		}
		if !c.allowed && (d != authorizer.DecisionDeny || reason == "") {
			t.Errorf("%s %s/%s: got %v %q, want a refusal that says why", c.verb, c.resource, c.sub, d, reason)
		}
		if d, _, _ := chain.Authorize(t.Context(), request(other, c.verb, "ns", c.group, c.resource, c.sub, "")); d != authorizer.DecisionAllow {
			t.Errorf("%s %s/%s of the plugin itself: got %v", c.verb, c.resource, c.sub, d)
		}
	}
	for verb, want := range map[string]authorizer.Decision{"get": authorizer.DecisionAllow, "post": authorizer.DecisionDeny, "put": authorizer.DecisionDeny} {
		a := authorizer.AttributesRecord{User: who, Verb: verb, Path: "/version"}
		if d, reason, _ := chain.Authorize(t.Context(), a); d != want {
			t.Errorf("%s /version: got %v %q", verb, d, reason)
		}
	}
}

func TestShadowRole(t *testing.T) {
	client := fake.NewClientset()
	for range 2 {
		if err := EnsureShadowRole(t.Context(), client, "scheduler", []rbacv1.PolicyRule{rule(read, "", "pods")}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), "system:plugin-shadow:scheduler", metav1.GetOptions{})
	if err != nil || len(b.Subjects) != 1 || b.Subjects[0].Name != "system:plugin-shadow:scheduler" {
		t.Errorf("binding is %v, %v", b, err)
	}
	for range 2 {
		if err := RemoveShadowRole(t.Context(), client, "scheduler"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.RbacV1().ClusterRoles().Get(t.Context(), "system:plugin-shadow:scheduler", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the role stays: %v", err)
	}
}
