package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/plugins/controllers"
	"keelson.dev/keelson/test/harness"
)

// TestCredentials: tokens, signatures, requests and trust bundles are looked after.
func TestCredentials(t *testing.T) {
	server := harness.Start(t)
	c := &cluster{t: t, ctx: t.Context(), server: server, admin: server.Admin, config: server.Config}
	c.legacyTokens()
	c.run(controllers.Plugin, `{"legacyTokenCleanUpPeriod":"24h"}`)
	t.Run("unused tokens", func(t *testing.T) { c.in(t).legacyTokensCleaned() })
	t.Run("bootstrap tokens", func(t *testing.T) { c.in(t).bootstrapTokens() })
	t.Run("tokens without account", func(t *testing.T) { c.in(t).orphanedToken() })
	t.Run("requests of nodes", func(t *testing.T) { c.in(t).approvals() })
	t.Run("trust bundle", func(t *testing.T) { c.in(t).trustBundle() })
}

func (c *cluster) secret(s *corev1.Secret) {
	c.t.Helper()
	_, err := c.admin.CoreV1().Secrets(s.Namespace).Create(c.ctx, s, metav1.CreateOptions{})
	c.must(err)
}

func (c *cluster) secretGone(namespace, name string) {
	c.t.Helper()
	c.eventually("secret "+name+" is gone", func() string {
		if _, err := c.admin.CoreV1().Secrets(namespace).Get(c.ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "it is still there"
		}
		return ""
	})
}

func accountToken(name, account string, labels map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "default", Labels: labels, Annotations: map[string]string{corev1.ServiceAccountNameKey: account},
	}, Type: corev1.SecretTypeServiceAccountToken}
}

// legacyTokens makes an account with tokens that nobody has used for years.
func (c *cluster) legacyTokens() {
	const tracking = "kube-apiserver-legacy-service-account-token-tracking"
	maps := c.admin.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	c.eventually("use of tokens is tracked", func() string {
		m, err := maps.Get(c.ctx, tracking, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		m.Data["since"] = "2020-01-01"
		if _, err = maps.Update(c.ctx, m, metav1.UpdateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Secrets: []corev1.ObjectReference{{Name: "unused"}, {Name: "invalid"}, {Name: "fresh"}}}
	_, err := c.admin.CoreV1().ServiceAccounts("default").Create(c.ctx, sa, metav1.CreateOptions{})
	c.must(err)
	c.secret(accountToken("unused", "old", nil))
	c.secret(accountToken("invalid", "old", map[string]string{"kubernetes.io/legacy-token-invalid-since": "2020-06-01"}))
	c.secret(accountToken("fresh", "old", map[string]string{"kubernetes.io/legacy-token-last-used": time.Now().UTC().Format(time.DateOnly)}))
	c.secret(accountToken("manual", "old", nil)) // the account does not name it
}

func (c *cluster) legacyTokensCleaned() {
	c.secretGone("default", "invalid")
	mark := func(name string) string {
		s, err := c.admin.CoreV1().Secrets("default").Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		return s.Labels["kubernetes.io/legacy-token-invalid-since"]
	}
	c.eventually("the unused token is marked", func() string {
		if mark("unused") == "" {
			return "it is not"
		}
		return ""
	})
	for _, name := range []string{"fresh", "manual"} {
		if got := mark(name); got != "" {
			c.t.Errorf("secret %s is marked as invalid since %s", name, got)
		}
	}
}

func (c *cluster) bootstrapTokens() {
	token := func(id string, end time.Time) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id, Namespace: metav1.NamespaceSystem}, Type: corev1.SecretTypeBootstrapToken,
			StringData: map[string]string{
				"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": end.UTC().Format(time.RFC3339),
			}}
	}
	maps := c.admin.CoreV1().ConfigMaps(metav1.NamespacePublic)
	_, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "text"}}, metav1.CreateOptions{})
	c.must(err)
	c.secret(token("aaaaaa", time.Now().Add(-time.Hour)))
	c.secret(token("bbbbbb", time.Now().Add(time.Hour)))
	signed := func(want bool) {
		c.t.Helper()
		c.eventually("signature of the token", func() string {
			m, err := maps.Get(c.ctx, "cluster-info", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if got := m.Data["jws-kubeconfig-bbbbbb"]; strings.Contains(got, "..") != want || m.Data["jws-kubeconfig-aaaaaa"] != "" {
				return "got " + got
			}
			return ""
		})
	}
	signed(true)
	c.secretGone(metav1.NamespaceSystem, "bootstrap-token-aaaaaa")
	c.must(c.admin.CoreV1().Secrets(metav1.NamespaceSystem).Delete(c.ctx, "bootstrap-token-bbbbbb", metav1.DeleteOptions{}))
	signed(false)
}

func (c *cluster) orphanedToken() {
	accounts := c.admin.CoreV1().ServiceAccounts("default")
	_, err := accounts.Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "short"}}, metav1.CreateOptions{})
	c.must(err)
	c.secret(accountToken("short-token", "short", nil))
	c.must(accounts.Delete(c.ctx, "short", metav1.DeleteOptions{}))
	c.secretGone("default", "short-token")
}

func (c *cluster) approvals() {
	for name, role := range map[string]string{"joining": "system:node-bootstrapper", "approved": "system:certificates.k8s.io:certificatesigningrequests:nodeclient"} {
		subject := rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "joiners"}
		if name == "approved" {
			subject = rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "allowed"}
		}
		_, err := c.admin.RbacV1().ClusterRoleBindings().Create(c.ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{subject},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		}, metav1.CreateOptions{})
		c.must(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:n7", Organization: []string{"system:nodes"}},
	}, key)
	c.must(err)
	for _, user := range []string{"refused", "allowed"} { // in this order they are looked at
		config, err := c.server.As(user, "joiners")
		c.must(err)
		client, err := kubernetes.NewForConfig(config)
		c.must(err)
		c.eventually("request of "+user, func() string {
			_, err := client.CertificatesV1().CertificateSigningRequests().Create(c.ctx, &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: user},
				Spec: certificatesv1.CertificateSigningRequestSpec{
					Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
					Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
				},
			}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return err.Error() // the binding may not be known yet
			}
			return ""
		})
	}
	conditions := func(name string) []certificatesv1.CertificateSigningRequestCondition {
		r, err := c.admin.CertificatesV1().CertificateSigningRequests().Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		return r.Status.Conditions
	}
	c.eventually("the request is approved", func() string {
		got := conditions("allowed")
		if len(got) != 1 || got[0].Reason != "AutoApproved" || got[0].Message != "Auto approving kubelet client certificate after SubjectAccessReview." {
			return "it is not"
		}
		return ""
	})
	if got := conditions("refused"); len(got) != 0 {
		c.t.Errorf("the request of who may not: %v", got)
	}
}

func (c *cluster) trustBundle() {
	bundles := c.admin.CertificatesV1().ClusterTrustBundles()
	published := func() (name string) {
		c.t.Helper()
		c.eventually("the authority is published", func() string {
			list, err := bundles.List(c.ctx, metav1.ListOptions{FieldSelector: "spec.signerName=kubernetes.io/kube-apiserver-serving"})
			if err != nil {
				return err.Error()
			}
			if len(list.Items) != 1 || list.Items[0].Spec.TrustBundle != string(c.server.PKI.CAPEM()) {
				return "it is not"
			}
			name = list.Items[0].Name
			return ""
		})
		return name
	}
	c.must(bundles.Delete(c.ctx, published(), metav1.DeleteOptions{}))
	published()
	_, err := bundles.Create(c.ctx, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:before"},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: "kubernetes.io/kube-apiserver-serving", TrustBundle: string(c.server.PKI.CAPEM())},
	}, metav1.CreateOptions{})
	c.must(err)
	c.eventually("the bundle before is gone", func() string {
		if _, err := bundles.Get(c.ctx, "kubernetes.io:kube-apiserver-serving:before", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return "it is still there"
		}
		return ""
	})
}
