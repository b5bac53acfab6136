package auth

import (
	"context"
	"fmt"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// loaded is an RBAC over objects, complete.
func loaded(objects ...runtime.Object) *RBAC {
	r := NewRBAC()
	for _, o := range objects {
		r.set(o)
	}
	r.closeOnce.Do(func() { close(r.synced) })
	return r
}

func someone(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func request(u user.Info, verb, ns, group, resource, sub, name string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: u, Verb: verb, Namespace: ns, APIGroup: group, Resource: resource,
		Subresource: sub, Name: name, ResourceRequest: true}
}

func path(u user.Info, verb, p string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: u, Verb: verb, Path: p}
}

func fixtures() []runtime.Object {
	role := func(ns, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: meta(ns, name, ""), Rules: rules}
	}
	bind := func(ns, name, kind, ref string, s ...rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: meta(ns, name, ""), RoleRef: rbacv1.RoleRef{Kind: kind, Name: ref}, Subjects: s}
	}
	return []runtime.Object{
		role("ns", "pods", rule(verbs("get", "list"), "", "pods", "pods/log")),
		role("ns", "one", named(verbs("update"), "", "configmaps", "leader")),
		clusterRole("reader", rule(read, "", "*")),
		clusterRole("scaler", rule(verbs("update"), "apps", "*/scale")),
		clusterRole("paths", paths("/healthz/*", "/version")),
		bind("ns", "b1", "Role", "pods", userNamed("ann")),
		bind("ns", "b2", "Role", "one", serviceAccount("", "app")),
		bind("ns", "b3", "ClusterRole", "scaler", serviceAccount("other", "app")),
		bind("ns", "b4", "Role", "missing", userNamed("bob")),
		clusterBinding("c1", "reader", group("readers")),
		clusterBinding("c2", "paths", userNamed("ann")),
	}
}

func TestAuthorize(t *testing.T) {
	r := loaded(fixtures()...)
	ann, app, other := someone("ann"), someone("system:serviceaccount:ns:app"), someone("system:serviceaccount:other:app")
	tests := map[string]struct {
		a    authorizer.Attributes
		want bool
	}{
		"role in its namespace":          {request(ann, "get", "ns", "", "pods", "", "p"), true},
		"subresource listed":             {request(ann, "get", "ns", "", "pods", "log", "p"), true},
		"subresource not listed":         {request(ann, "get", "ns", "", "pods", "exec", "p"), false},
		"verb not listed":                {request(ann, "delete", "ns", "", "pods", "", "p"), false},
		"other namespace":                {request(ann, "get", "ns2", "", "pods", "", "p"), false},
		"whole cluster":                  {request(ann, "list", "", "", "pods", "", ""), false},
		"other group of API":             {request(ann, "get", "ns", "metrics.k8s.io", "pods", "", "p"), false},
		"user is no group":               {request(someone("x", "ann"), "get", "ns", "", "pods", "", "p"), false},
		"name listed":                    {request(app, "update", "ns", "", "configmaps", "", "leader"), true},
		"name not listed":                {request(app, "update", "ns", "", "configmaps", "", "else"), false},
		"collection with names":          {request(app, "update", "ns", "", "configmaps", "", ""), false},
		"account of another namespace":   {request(other, "update", "ns", "apps", "deployments", "scale", "d"), true},
		"any resource's subresource":     {request(other, "update", "ns", "apps", "deployments", "", "d"), false},
		"cluster role in all namespaces": {request(someone("x", "readers"), "list", "any", "", "secrets", "", ""), true},
		"cluster role, whole cluster":    {request(someone("x", "readers"), "watch", "", "", "nodes", "", ""), true},
		"superuser":                      {request(someone("x", "system:masters"), "delete", "", "x", "y", "z", ""), true},
		"path":                           {path(ann, "get", "/version"), true},
		"path prefix":                    {path(ann, "get", "/healthz/ping"), true},
		"path other":                     {path(ann, "get", "/metrics"), false},
		"path verb":                      {path(ann, "post", "/version"), false},
		"nobody":                         {request(nil, "get", "ns", "", "pods", "", "p"), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, reason, err := r.Authorize(t.Context(), tt.a)
			if err != nil {
				t.Fatal(err)
			}
			if (got == authorizer.DecisionAllow) != tt.want {
				t.Errorf("got %v (%s), want allowed %v", got, reason, tt.want)
			}
			if got == authorizer.DecisionDeny {
				t.Error("RBAC denied, which shuts out other authorizers")
			}
		})
	}
	_, reason, _ := r.Authorize(t.Context(), request(someone("bob"), "get", "ns", "", "pods", "", "p"))
	if want := `RBAC: role.rbac.authorization.k8s.io "missing" not found`; reason != want {
		t.Errorf("got reason %q, want %q", reason, want)
	}
}

func TestIndexFollowsChanges(t *testing.T) {
	r := loaded(fixtures()...)
	may := func() bool {
		got, _, err := r.Authorize(t.Context(), request(someone("ann"), "get", "ns", "", "pods", "", "p"))
		if err != nil {
			t.Fatal(err)
		}
		return got == authorizer.DecisionAllow
	}
	b := &rbacv1.RoleBinding{ObjectMeta: meta("ns", "b1", ""), RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "pods"}}
	steps := []struct {
		name string
		do   func()
		want bool
	}{
		{"at first", func() {}, true},
		{"subject taken out", func() { r.set(b) }, false},
		{"subject put in", func() { b = b.DeepCopy(); b.Subjects = []rbacv1.Subject{userNamed("ann")}; r.set(b) }, true},
		{"role deleted", func() { r.remove(&rbacv1.Role{ObjectMeta: meta("ns", "pods", "")}) }, false},
		{"role back", func() {
			r.set(&rbacv1.Role{ObjectMeta: meta("ns", "pods", ""), Rules: []rbacv1.PolicyRule{rule(verbs("*"), "*", "*")}})
		}, true},
		{"binding deleted", func() { r.remove(b) }, false},
	}
	for _, s := range steps {
		s.do()
		if may() != s.want {
			t.Errorf("%s: allowed is %v, want %v", s.name, !s.want, s.want)
		}
	}
	for _, o := range fixtures() {
		r.remove(o)
	}
	if n := len(r.index.subjects) + len(r.index.bindings) + len(r.index.roles); n != 0 {
		t.Errorf("%d entries are left in an index without objects", n)
	}
}

func TestAggregation(t *testing.T) {
	r := loaded(clusterBinding("v", "view", userNamed("ann")))
	for _, role := range ClusterRoles() {
		r.set(role)
	}
	may := func(group, resource string) bool {
		got, _, _ := r.Authorize(t.Context(), request(someone("ann"), "list", "ns", group, resource, "", ""))
		return got == authorizer.DecisionAllow
	}
	if !may("apps", "deployments") || may("", "secrets") {
		t.Error("view should show deployments and hide secrets")
	}
	if may("example.com", "things") {
		t.Fatal("view shows things before anybody said so")
	}
	add := part("things-view", []string{"view"}, rule(read, "example.com", "things"))
	r.set(add)
	if !may("example.com", "things") {
		t.Error("a part labelled for view does not count")
	}
	r.remove(add)
	if may("example.com", "things") {
		t.Error("a part that is gone still counts")
	}
}

// TestPluginsAreTheClusterAdministrators: a plugin runs as root, so nobody else may
// change one; who may see the cluster may see them.
func TestPluginsAreTheClusterAdministrators(t *testing.T) {
	r := loaded(clusterBinding("a", "admin", userNamed("admin")), clusterBinding("e", "edit", userNamed("edit")),
		clusterBinding("v", "view", userNamed("view")), clusterBinding("c", "cluster-admin", userNamed("root")))
	for _, role := range ClusterRoles() {
		r.set(role)
	}
	for who, mayChange := range map[string]bool{"root": true, "admin": false, "edit": false, "view": false, "other": false} {
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			for _, sub := range []string{"", "status", "restart", "swap"} {
				got, _, _ := r.Authorize(t.Context(), request(someone(who), verb, "", "keelson.dev", "plugins", sub, "x"))
				if (got == authorizer.DecisionAllow) != mayChange {
					t.Errorf("%s %s plugins/%s: got %v, want %v", who, verb, sub, got == authorizer.DecisionAllow, mayChange)
				}
			}
		}
		got, _, _ := r.Authorize(t.Context(), request(someone(who), "list", "", "keelson.dev", "plugins", "", ""))
		if maySee := who != "other"; (got == authorizer.DecisionAllow) != maySee {
			t.Errorf("%s lists plugins: got %v, want %v", who, got == authorizer.DecisionAllow, maySee)
		}
	}
}

func TestRBACWaitsForItsObjects(t *testing.T) {
	client := fake.NewClientset(fixtures()...)
	factory := informers.NewSharedInformerFactory(client, 0)
	r := NewRBAC()
	wait, err := r.Watch(factory)
	if err != nil {
		t.Fatal(err)
	}
	early, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := r.Authorize(early, request(someone("ann"), "get", "ns", "", "pods", "", "p")); err == nil {
		t.Error("answered before the objects were loaded")
	}
	if d, _, _ := r.Authorize(t.Context(), request(someone("x", "system:masters"), "get", "", "", "pods", "", "")); d != authorizer.DecisionAllow {
		t.Error("the superuser had to wait")
	}
	factory.Start(t.Context().Done())
	if err := wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d, _, err := r.Authorize(t.Context(), request(someone("ann"), "get", "ns", "", "pods", "", "p")); d != authorizer.DecisionAllow {
		t.Errorf("got %v, %v", d, err)
	}
}

func TestBootstrap(t *testing.T) {
	client := fake.NewClientset()
	if err := Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	roles := client.RbacV1().ClusterRoles()
	view, err := roles.Get(t.Context(), "system:aggregate-to-view", metav1.GetOptions{})
	if err != nil || len(view.Rules) == 0 {
		t.Fatalf("view is %v, %v", view, err)
	}
	basic, err := roles.Get(t.Context(), "system:basic-user", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// A rule lost comes back, a rule added stays, what is protected is let alone.
	basic.Rules = []rbacv1.PolicyRule{rule(verbs("get"), "x", "y")}
	discovery, err := roles.Get(t.Context(), "system:discovery", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	discovery.Rules = nil
	discovery.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	for _, r := range []*rbacv1.ClusterRole{basic, discovery} {
		if _, err := roles.Update(t.Context(), r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client.ClearActions()
	if err := Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	basic, _ = roles.Get(t.Context(), "system:basic-user", metav1.GetOptions{})
	want := []rbacv1.PolicyRule{rule(verbs("get"), "x", "y"), rule(verbs("create"), "authentication.k8s.io", "selfsubjectreviews"),
		rule(verbs("create"), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews")}
	if ok, missing := validation.Covers(basic.Rules, want); !ok {
		t.Errorf("system:basic-user lacks %v", missing)
	}
	discovery, _ = roles.Get(t.Context(), "system:discovery", metav1.GetOptions{})
	if len(discovery.Rules) != 0 {
		t.Error("a protected role was changed")
	}
	writes := 0
	for _, a := range client.Actions() {
		if v := a.GetVerb(); v != "get" && v != "list" {
			writes++
		}
	}
	if writes != 1 {
		t.Errorf("the second run wrote %d objects, want the one that had lost rules", writes)
	}
}

func TestEnsurePluginRole(t *testing.T) {
	client := fake.NewClientset()
	for i, rules := range [][]rbacv1.PolicyRule{
		{rule(read, "", "pods")}, {rule(read, "", "pods")}, {rule(read, "", "pods"), rule(write, "", "events")}, nil,
	} {
		if err := EnsurePluginRole(t.Context(), client, "dns", rules); err != nil {
			t.Fatal(err)
		}
		role, err := client.RbacV1().ClusterRoles().Get(t.Context(), "system:plugin:dns", metav1.GetOptions{})
		if err != nil || len(role.Rules) != len(rules) {
			t.Errorf("step %d: role is %v, %v", i, role, err)
		}
	}
	b, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), "system:plugin:dns", metav1.GetOptions{})
	if err != nil || len(b.Subjects) != 1 || b.Subjects[0].Name != "system:plugin:dns" {
		t.Errorf("binding is %v, %v", b, err)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprintf("bindings=%d", n), func(b *testing.B) {
			r := loaded(fixtures()...)
			for i := range n {
				r.set(&rbacv1.RoleBinding{ObjectMeta: meta("ns", fmt.Sprintf("x%d", i), ""),
					RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "one"}, Subjects: []rbacv1.Subject{userNamed(fmt.Sprintf("u%d", i))}})
			}
			a := request(someone("ann", "g1", "system:authenticated"), "list", "ns", "", "pods", "", "")
			b.ReportAllocs()
			for b.Loop() {
				if d, _, _ := r.Authorize(b.Context(), a); d != authorizer.DecisionAllow {
					b.Fatal("not allowed")
				}
			}
		})
	}
}
