package apiserver

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// grant gives a user rules in the namespace default, or cluster-wide.
func grant(t *testing.T, h *harness, user string, clusterWide bool, rules ...rbacv1.PolicyRule) {
	t.Helper()
	ctx, meta := t.Context(), metav1.ObjectMeta{Name: "of-" + user}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}
	_, err := h.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	if err == nil && clusterWide {
		_, err = h.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	} else if err == nil {
		_, err = h.admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func rules(verb, group, resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
}

// TestReviews: the four kinds of access review tell what the server would decide.
func TestReviews(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	grant(t, h, "ann", false, rules("get", "", "secrets"))
	ann := client(t, h.as(t, "ann")).AuthorizationV1()
	var self *authorizationv1.SelfSubjectRulesReview
	eventually(t, "ann's rules are listed", func() bool {
		var err error
		self, err = ann.SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
		return err == nil && slices.ContainsFunc(self.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Equal(r.Resources, []string{"secrets"}) })
	})
	if !slices.ContainsFunc(self.Status.NonResourceRules, func(r authorizationv1.NonResourceRule) bool { return slices.Contains(r.NonResourceURLs, "/version") }) {
		t.Errorf("paths for everybody are not listed: %+v", self.Status.NonResourceRules)
	}
	if self.Status.Incomplete {
		t.Errorf("incomplete: %s", self.Status.EvaluationError)
	}
	elsewhere, err := ann.SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "kube-system"}}, metav1.CreateOptions{})
	if err != nil || slices.ContainsFunc(elsewhere.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Equal(r.Resources, []string{"secrets"}) }) {
		t.Errorf("rules of another namespace: %+v, %v", elsewhere.Status, err)
	}
	about := func(namespace string) *authorizationv1.ResourceAttributes {
		return &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "get", Resource: "secrets", Name: "x"}
	}
	for name, c := range map[string]struct {
		namespace, user string
		want            bool
	}{"ann": {"default", "ann", true}, "ann elsewhere": {"kube-system", "ann", false}, "bob": {"default", "bob", false}} {
		got, err := h.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: c.user, ResourceAttributes: about(c.namespace)}}, metav1.CreateOptions{})
		if err != nil || got.Status.Allowed != c.want {
			t.Errorf("%s: got %+v, %v", name, got.Status, err)
		}
		local, err := h.admin.AuthorizationV1().LocalSubjectAccessReviews(c.namespace).Create(ctx, &authorizationv1.LocalSubjectAccessReview{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace},
			Spec:       authorizationv1.SubjectAccessReviewSpec{User: c.user, ResourceAttributes: about(c.namespace)}}, metav1.CreateOptions{})
		if err != nil || local.Status.Allowed != c.want {
			t.Errorf("%s, local: got %+v, %v", name, local.Status, err)
		}
	}
	_, err = h.admin.AuthorizationV1().LocalSubjectAccessReviews("default").Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
		Spec:       authorizationv1.SubjectAccessReviewSpec{User: "ann", ResourceAttributes: about("kube-system")}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a local review of another namespace: %v, want Invalid", err)
	}
	// The Node authorizer looks at the selector.
	for selector, want := range map[string]bool{"a": true, "b": false} {
		got, err := h.admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "system:node:a", Groups: []string{"system:nodes"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: "list", Resource: "pods", Version: "v1", FieldSelector: &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{
					{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{selector}}}}}}}, metav1.CreateOptions{})
		if err != nil || got.Status.Allowed != want {
			t.Errorf("pods of node %s for node a: got %+v, %v", selector, got.Status, err)
		}
	}
}

// TestImpersonation: only whom, and with what, the rules name.
func TestImpersonation(t *testing.T) {
	h := start(t)
	one := rules("impersonate", "", "users")
	one.ResourceNames = []string{"bob"}
	grant(t, h, "ann", true, one)
	as := func(c rest.ImpersonationConfig) error {
		config := h.as(t, "ann")
		config.Impersonate = c
		who, err := whoAmI(t, config)
		if err == nil && who.Username != c.UserName {
			return fmt.Errorf("became %+v", who)
		}
		return err
	}
	eventually(t, "ann may be bob", func() bool { return as(rest.ImpersonationConfig{UserName: "bob"}) == nil })
	for name, c := range map[string]rest.ImpersonationConfig{
		"another user":             {UserName: "eve"},
		"bob in a group":           {UserName: "bob", Groups: []string{"system:masters"}},
		"bob with more about him":  {UserName: "bob", Extra: map[string][]string{"scopes": {"all"}}},
		"bob with an id":           {UserName: "bob", UID: "1"},
		"a service account":        {UserName: "system:serviceaccount:default:app"},
		"a node as a user by name": {UserName: "system:node:a"},
	} {
		if err := as(c); !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want Forbidden", name, err)
		}
	}
}

// TestConstrainedImpersonation: a right to be somebody for one action only (KEP-5284).
func TestConstrainedImpersonation(t *testing.T) {
	h := start(t)
	be := rules("impersonate:user-info", "authentication.k8s.io", "users")
	be.ResourceNames = []string{"bob"}
	grant(t, h, "ann", true, be, rules("impersonate-on:user-info:list", "", "pods"))
	grant(t, h, "bob", true, rules("list", "", "pods"), rules("list", "", "secrets"))
	config := h.as(t, "ann")
	config.Impersonate.UserName = "bob"
	bob := client(t, config).CoreV1()
	eventually(t, "ann may list pods as bob", func() bool {
		_, err := bob.Pods("default").List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	if _, err := bob.Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets as bob: got %v, want Forbidden", err)
	}
}

// TestAuthorizationWebhook: a service decides about what its conditions select; when it is
// down, the failure policy decides.
func TestAuthorizationWebhook(t *testing.T) {
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Status.Allowed = review.Spec.User == "ann"
		review.Status.Denied = review.Spec.User == "eve"
		review.Status.Reason = "the service says so"
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	ca := writeTemp(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})))
	for _, policy := range []string{"NoOpinion", "Deny"} {
		t.Run(policy, func(t *testing.T) {
			config := func(server string) string {
				kubeconfig := writeTemp(t, "webhook.kubeconfig", fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]\n"+
					"users: [{name: u}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n", server, ca))
				return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: service
  webhook:
    timeout: 3s
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: %s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}
    matchConditions:
    - expression: has(request.resourceAttributes) && request.resourceAttributes.resource == 'secrets'
- {type: RBAC, name: rbac}
`, policy, kubeconfig)
			}
			path := writeTemp(t, "authorization.yaml", config(hook.URL))
			h := start(t, func(c *Config) { c.Options.Authorization.ConfigFile = path })
			list := func(user, what string) error {
				core := client(t, h.as(t, user)).CoreV1()
				var err error
				if what == "secrets" {
					_, err = core.Secrets("default").List(t.Context(), metav1.ListOptions{})
				} else {
					_, err = core.ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
				}
				return err
			}
			if err := list("ann", "secrets"); err != nil {
				t.Errorf("what the service allows: %v", err)
			}
			if err := list("eve", "secrets"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "the service says so") {
				t.Errorf("what the service denies: %v", err)
			}
			if err := list("ann", "configmaps"); !apierrors.IsForbidden(err) {
				t.Errorf("what its condition leaves out: %v", err)
			}
		})
	}
	for policy, want := range map[string]bool{"NoOpinion": true, "Deny": false} {
		t.Run(policy+" when the service is down", func(t *testing.T) {
			kubeconfig := writeTemp(t, "webhook.kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n"+
				"users: [{name: u}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n")
			path := writeTemp(t, "authorization.yaml", fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: service
  webhook:
    timeout: 1s
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: %s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %q}
    matchConditions:
    - expression: request.user == 'bob'
- {type: RBAC, name: rbac}
`, policy, kubeconfig))
			h := start(t, func(c *Config) { c.Options.Authorization.ConfigFile = path })
			grant(t, h, "bob", true, rules("list", "", "configmaps"))
			grant(t, h, "carl", true, rules("list", "", "configmaps"))
			may := func(user string) bool {
				_, err := client(t, h.as(t, user)).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
				return err == nil
			}
			eventually(t, "the roles are known", func() bool { return may("carl") })
			if got := may("bob"); got != want {
				t.Errorf("RBAC allows, the service is down: got %t, want %t", got, want)
			}
		})
	}
}
