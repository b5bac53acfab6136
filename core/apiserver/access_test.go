package apiserver

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/pki"
)

func eviction(pod string) *policyv1.Eviction {
	return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: "default"}}
}

func TestRights(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	ann := client(t, h.as(t, "ann"))
	_, err := ann.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	if want := `secrets is forbidden: User "ann" cannot list resource "secrets" in API group "" in the namespace "default"`; !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := ann.Discovery().ServerGroups(); err != nil {
		t.Errorf("discovery for anybody authenticated: %v", err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "granter"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"secrets"}},
		{Verbs: []string{"create"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}},
	}}
	if _, err := h.admin.RbacV1().Roles("default").Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "granter"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "granter"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}}}
	if _, err := h.admin.RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ann may list secrets", func() bool {
		_, err := ann.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
		return err == nil
	})
	if _, err := ann.CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets of another namespace: %v", err)
	}
	more := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"delete"}, APIGroups: []string{""}, Resources: []string{"secrets"}}}}
	if _, err := ann.RbacV1().Roles("default").Create(ctx, more, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
		t.Errorf("escalation: %v", err)
	}
	less := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "less"}, Rules: role.Rules[:1]}
	if _, err := ann.RbacV1().Roles("default").Create(ctx, less, metav1.CreateOptions{}); err != nil {
		t.Errorf("granting what one holds: %v", err)
	}
	steal := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "steal"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: binding.Subjects}
	if _, err := ann.RbacV1().RoleBindings("default").Create(ctx, steal, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("binding cluster-admin: %v", err)
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: "secrets"}}}
	got, err := ann.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil || !got.Status.Allowed {
		t.Errorf("access review: %+v, %v", got, err)
	}
	who, err := ann.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "ann" {
		t.Errorf("who am I: %+v, %v", who, err)
	}
	as := h.as(t, "boss", "system:masters")
	as.Impersonate = rest.ImpersonationConfig{UserName: "ann"}
	if _, err := client(t, as).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("impersonating ann: %v, want Forbidden", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	h := start(t)
	other, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := other.ClientPair("admin", []string{"system:masters"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	foreign := h.bare()
	foreign.CertData, foreign.KeyData = pair.Certificate, pair.PrivateKey
	for what, c := range map[string]*rest.Config{"foreign CA": foreign, "made-up token": h.with("abc"), "forged token": h.with("e30.e30.e30")} {
		if _, err := client(t, c).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v, want Unauthorized", what, err)
		}
	}
	server, err := h.pki.ServerPair("admin", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := h.bare()
	c.CertData, c.KeyData = server.Certificate, server.PrivateKey
	if _, err := client(t, c).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a serving certificate as a client's: %v, want Unauthorized", err)
	}
}

func tokenFor(ctx context.Context, t testing.TB, admin kubernetes.Interface, sa, pod string) string {
	t.Helper()
	hour := int64(3600)
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}
	if pod != "" {
		req.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod}
	}
	got, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, sa, req, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("token for %s: %v", sa, err)
	}
	if d := time.Until(got.Status.ExpirationTimestamp.Time); d < 50*time.Minute {
		t.Errorf("token expires in %v", d)
	}
	return got.Status.Token
}

func TestServiceAccountTokens(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	accounts := h.admin.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := h.admin.CoreV1().Pods("default")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "app", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mounted := false
	for _, v := range made.Spec.Volumes {
		mounted = mounted || v.Projected != nil && len(v.Projected.Sources) == 3 && v.Projected.Sources[0].ServiceAccountToken != nil
	}
	if !mounted {
		t.Errorf("the pod got no token volume: %+v", made.Spec.Volumes)
	}
	free, bound := tokenFor(ctx, t, h.admin, "app", ""), tokenFor(ctx, t, h.admin, "app", "p")
	name := func(token string) string {
		r, err := client(t, h.with(token)).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) {
			return "unauthorized"
		}
		if err != nil {
			return err.Error()
		}
		return r.Status.UserInfo.Username
	}
	for what, token := range map[string]string{"free": free, "bound": bound} {
		if got := name(token); got != "system:serviceaccount:default:app" {
			t.Errorf("%s token authenticates as %s", what, got)
		}
	}
	review, err := h.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: bound}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Errorf("token review: %+v, %v", review, err)
	}
	if got, want := review.Status.User.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}; !slices.Equal(got, want) {
		t.Errorf("token review: groups %q, want %q", got, want)
	}
	zero := int64(0)
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if got := name(bound); got != "unauthorized" {
		t.Errorf("the token of a deleted pod authenticates as %s", got)
	}
	if got := name(free); got != "system:serviceaccount:default:app" {
		t.Errorf("the free token authenticates as %s", got)
	}
	if err := accounts.Delete(ctx, "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := name(free); got != "unauthorized" {
		t.Errorf("the token of a service account made anew authenticates as %s", got)
	}
}

func TestPluginsGetWhatTheyDeclared(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	rules := []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"services"}}}
	loopback := client(t, h.LoopbackConfig())
	if err := auth.EnsurePluginRole(ctx, loopback, "dns", rules); err != nil {
		t.Fatal(err)
	}
	dns := client(t, h.as(t, "system:plugin:dns", "system:plugins"))
	eventually(t, "the plugin may list services", func() bool {
		_, err := dns.CoreV1().Services("").List(ctx, metav1.ListOptions{})
		return err == nil
	})
	if _, err := dns.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets for the plugin: %v, want Forbidden", err)
	}
}
