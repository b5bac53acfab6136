package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// legacyIssuer is in tokens that are kept in a secret and do not expire.
const legacyIssuer = "kubernetes/serviceaccount"

// legacyClaims are those of a token in a secret of type
// kubernetes.io/service-account-token, beside iss and sub.
type legacyClaims struct {
	LegacyNamespace string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName      string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	AccountName     string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID      string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// FillSecret puts into a secret of type kubernetes.io/service-account-token what
// it lacks: a token, the cluster's CA and the namespace. The token is good for as
// long as the secret holds it and the account is there. An account that is
// missing, or is another one than the secret's annotation says, is an error.
func (t *Tokens) FillSecret(ctx context.Context, s *corev1.Secret) error {
	if s.Type != corev1.SecretTypeServiceAccountToken {
		return nil
	}
	name := s.Annotations[corev1.ServiceAccountNameKey]
	if name == "" {
		return nil // validation says so
	}
	sa, err := t.Objects.ServiceAccount(ctx, s.Namespace, name)
	if err != nil {
		return err
	}
	if uid := s.Annotations[corev1.ServiceAccountUIDKey]; uid != "" && uid != string(sa.UID) {
		return apierrors.NewConflict(corev1.Resource("secrets"), s.Name,
			fmt.Errorf("service account %q has the UID %s, not %s", name, sa.UID, uid))
	}
	s.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID)
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := t.signer.sign(t.Signer, struct {
			Issuer  string `json:"iss"`
			Subject string `json:"sub"`
			legacyClaims
		}{legacyIssuer, serviceaccount.MakeUsername(sa.Namespace, sa.Name), legacyClaims{
			LegacyNamespace: sa.Namespace, SecretName: s.Name, AccountName: sa.Name, AccountUID: string(sa.UID),
		}})
		if err != nil {
			return err
		}
		s.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if len(s.Data[corev1.ServiceAccountRootCAKey]) == 0 {
		s.Data[corev1.ServiceAccountRootCAKey] = t.CA
	}
	if len(s.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		s.Data[corev1.ServiceAccountNamespaceKey] = []byte(s.Namespace)
	}
	return nil
}

// authenticateLegacy checks a token whose signature is good: its secret has to
// hold it still.
func (t *Tokens) authenticateLegacy(ctx context.Context, token, subject string, c *legacyClaims, wanted authenticator.Audiences) (*authenticator.Response, bool, error) {
	if len(t.APIAudiences().Intersect(wanted)) == 0 {
		return nil, false, fmt.Errorf("service account token is for audiences %q, not for %q", t.Audiences, []string(wanted))
	}
	if subject != serviceaccount.MakeUsername(c.LegacyNamespace, c.AccountName) || c.SecretName == "" {
		return nil, false, errors.New("service account token names another subject than its service account")
	}
	var sa *corev1.ServiceAccount
	if err := check(t, "service account", &ref{Name: c.AccountName, UID: c.AccountUID}, func(name string) (_ metav1.Object, err error) {
		sa, err = t.Objects.ServiceAccount(ctx, c.LegacyNamespace, name)
		return sa, err
	}); err != nil {
		return nil, false, err
	}
	secret, err := t.Objects.Secret(ctx, c.LegacyNamespace, c.SecretName)
	if apierrors.IsNotFound(err) {
		return nil, false, fmt.Errorf("service account token has been invalidated: secret %q is gone", c.SecretName)
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up secret %q of service account token: %w", c.SecretName, err)
	}
	if secret.DeletionTimestamp != nil {
		return nil, false, fmt.Errorf("service account token has been invalidated: secret %q has been deleted", c.SecretName)
	}
	if secret.Type != corev1.SecretTypeServiceAccountToken || subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 0 {
		return nil, false, fmt.Errorf("service account token has been invalidated: secret %q does not hold it any more", c.SecretName)
	}
	if err := t.useLegacy(ctx, subject, sa, secret); err != nil {
		return nil, false, err
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: c.LegacyNamespace, Name: c.AccountName, UID: c.AccountUID}
	return &authenticator.Response{User: info.UserInfo(), Audiences: t.APIAudiences().Intersect(wanted)}, true, nil
}
