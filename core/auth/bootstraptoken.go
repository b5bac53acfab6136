package auth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

const (
	bootstrapGroup  = "system:bootstrappers"
	bootstrapPrefix = "bootstrap-token-" // of the secrets' names
)

var (
	bootstrapToken = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	bootstrapExtra = regexp.MustCompile(`\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z`)
)

// BootstrapTokens authenticates the tokens of joining nodes: ID.SECRET, kept in
// secrets bootstrap-token-ID of type bootstrap.kubernetes.io/token in
// kube-system. The user is system:bootstrap:ID.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
type BootstrapTokens struct {
	// Objects looks the secrets up. Required.
	Objects Objects
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

var _ authenticator.Token = (*BootstrapTokens)(nil)

// AuthenticateToken implements authenticator.Token. What does not look like such
// a token, or is not in force, is none of its business; a guess must not learn
// which.
func (b *BootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false, nil
	}
	id := parts[1]
	secret, err := b.Objects.Secret(ctx, metav1.NamespaceSystem, bootstrapPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up bootstrap token %s: %w", id, err)
	}
	data := func(key string) string { return string(secret.Data[key]) }
	if secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeBootstrapToken || data("token-id") != id ||
		subtle.ConstantTimeCompare(secret.Data["token-secret"], []byte(parts[2])) == 0 ||
		data("usage-bootstrap-authentication") != "true" || b.expired(data("expiration")) {
		return nil, false, nil
	}
	groups, err := bootstrapGroups(data("auth-extra-groups"))
	if err != nil {
		return nil, false, fmt.Errorf("secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "system:bootstrap:" + id, Groups: groups}}, true, nil
}

// expired says whether a token has no life left; a time that cannot be read has passed.
func (b *BootstrapTokens) expired(at string) bool {
	if at == "" {
		return false
	}
	now := time.Now
	if b.Now != nil {
		now = b.Now
	}
	t, err := time.Parse(time.RFC3339, at)
	return err != nil || !now().Before(t)
}

func bootstrapGroups(list string) ([]string, error) {
	groups := []string{bootstrapGroup}
	if list == "" {
		return groups, nil
	}
	for g := range strings.SplitSeq(list, ",") {
		if !bootstrapExtra.MatchString(g) {
			return nil, fmt.Errorf("auth-extra-groups has the group %q, which does not match %s", g, bootstrapExtra)
		}
		groups = append(groups, g)
	}
	slices.Sort(groups)
	return slices.Compact(groups), nil
}
