package apiserver

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/core/auth"
)

// TestShadowsReadAndDoNoMore: the identity of a shadow reads what its role says, and a write
// is refused also where a role allows it.
func TestShadowsReadAndDoNoMore(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	loopback := client(t, h.LoopbackConfig())
	rules := []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/binding", "configmaps", "events"}}}
	if err := auth.EnsureShadowRole(ctx, loopback, "scheduler", rules); err != nil {
		t.Fatal(err)
	}
	shadow := client(t, h.as(t, "system:plugin-shadow:scheduler", auth.ShadowsGroup))
	eventually(t, "the shadow may list pods", func() bool {
		_, err := shadow.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		return err == nil
	})
	if _, err := shadow.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets: got %v, want Forbidden", err)
	}
	pods, maps := shadow.CoreV1().Pods("default"), shadow.CoreV1().ConfigMaps("default")
	for what, write := range map[string]func() error{
		"create a config map": func() error {
			_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
			return err
		},
		"create it dry": func() error {
			_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{DryRun: []string{"All"}})
			return err
		},
		"bind a pod": func() error {
			return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
		},
		"delete all pods": func() error {
			return pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		},
		"write an event": func() error {
			_, err := shadow.CoreV1().Events("default").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
			return err
		},
		"review a token": func() error {
			_, err := shadow.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{}, metav1.CreateOptions{})
			return err
		},
		"review its own access": func() error { // which all users may
			_, err := shadow.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := write(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: got %v, want Forbidden", what, err)
		}
	}
}
