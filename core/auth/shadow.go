package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
)

// ShadowPrefix begins the user names of plugins' shadows, ShadowsGroup is their group.
const (
	ShadowPrefix = "system:plugin-shadow:"
	ShadowsGroup = "system:plugin-shadows"
)

// acting are subresources that do something when they are read.
var acting = []string{"attach", "exec", "portforward", "proxy"}

// shadow says whether a user is the shadow of a plugin, which may only read.
func shadow(u user.Info) bool { return u != nil && strings.HasPrefix(u.GetName(), ShadowPrefix) }

// effect says what of a request is not reading; empty: it reads. No role changes that,
// neither one for all users nor one that somebody binds to a shadow.
func effect(a authorizer.Attributes) string {
	verb := a.GetVerb()
	switch {
	case !a.IsResourceRequest() && verb != "get" && verb != "head":
		return verb + " " + a.GetPath()
	case !a.IsResourceRequest():
		return ""
	case !slices.Contains([]string{"get", "list", "watch"}, verb):
		return verb + " " + a.GetResource()
	case slices.Contains(acting, a.GetSubresource()):
		return a.GetResource() + "/" + a.GetSubresource()
	default:
		return ""
	}
}

// refuseShadow is the answer to the shadow of a plugin that wants to do more than to read.
func refuseShadow(a authorizer.Attributes) (refused bool, reason string) {
	what := effect(a)
	return what != "", fmt.Sprintf("the shadow of a plugin may only read, not %s", what)
}

// EnsureShadowRole gives the user system:plugin-shadow:NAME just the rules given, by a
// ClusterRole and a ClusterRoleBinding of the same name. It may be repeated. Whatever the
// rules say, the Chain lets a shadow do nothing but read.
func EnsureShadowRole(ctx context.Context, client kubernetes.Interface, name string, rules []rbacv1.PolicyRule) error {
	return ensureUserRole(ctx, client, ShadowPrefix+name, rules)
}

// RemoveShadowRole takes that back. It may be repeated.
func RemoveShadowRole(ctx context.Context, client kubernetes.Interface, name string) error {
	full := ShadowPrefix + name
	err := client.RbacV1().ClusterRoleBindings().Delete(ctx, full, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		err = client.RbacV1().ClusterRoles().Delete(ctx, full, metav1.DeleteOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove role and binding %s: %w", full, err)
	}
	return nil
}
