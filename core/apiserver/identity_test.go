package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// whoAmI asks who the server takes c for.
func whoAmI(t testing.TB, c *rest.Config) (authenticationv1.UserInfo, error) {
	t.Helper()
	r, err := client(t, c).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

func writeTemp(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBootstrapTokens(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	h := start(t, func(c *Config) {
		c.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef", Namespace: "kube-system"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"expiration": now.Add(time.Hour).UTC().Format(time.RFC3339), "auth-extra-groups": "system:bootstrappers:workers",
		},
	}
	if _, err := h.admin.CoreV1().Secrets("kube-system").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	who, err := whoAmI(t, h.with("abcdef.0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	if got := who.Username + " " + strings.Join(who.Groups, ","); got != "system:bootstrap:abcdef system:bootstrappers,system:bootstrappers:workers,system:authenticated" {
		t.Errorf("got %s", got)
	}
	if _, err := whoAmI(t, h.with("abcdef.0123456789abcdee")); !apierrors.IsUnauthorized(err) {
		t.Errorf("a wrong secret: got %v, want Unauthorized", err)
	}
	mu.Lock()
	now = now.Add(61 * time.Minute)
	mu.Unlock()
	if _, err := whoAmI(t, h.with("abcdef.0123456789abcdef")); !apierrors.IsUnauthorized(err) {
		t.Errorf("an expired token: got %v, want Unauthorized", err)
	}
}

func TestTokenFileAndProxy(t *testing.T) {
	path := writeTemp(t, "tokens.csv", "s3cret,ann,u1,\"dev,ops\"\n")
	h := start(t, func(c *Config) { c.Options.Authentication.TokenFile = path })
	who, err := whoAmI(t, h.with("s3cret"))
	if err != nil || who.Username != "ann" || who.UID != "u1" || len(who.Groups) != 3 {
		t.Errorf("got %+v, %v", who, err)
	}
	pair, err := h.pki.FrontProxyPair(frontProxyClient)
	if err != nil {
		t.Fatal(err)
	}
	proxy := h.bare()
	proxy.CertData, proxy.KeyData = pair.Certificate, pair.PrivateKey
	proxy.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			r.Header.Set("X-Remote-User", "bob")
			r.Header.Set("X-Remote-Group", "dev")
			return rt.RoundTrip(r)
		})
	}
	if who, err = whoAmI(t, proxy); err != nil || who.Username != "bob" || len(who.Groups) != 2 {
		t.Errorf("through a proxy: got %+v, %v", who, err)
	}
	forged := h.as(t, "eve")
	forged.WrapTransport = proxy.WrapTransport
	if who, err := whoAmI(t, forged); err == nil && who.Username == "bob" {
		t.Error("a client certificate of the cluster's CA may say who it is in a header")
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// provider is an OpenID Connect issuer.
type provider struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	mux := http.NewServeMux()
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	mux.HandleFunc("/.well-known/openid-configuration", answer(map[string]any{
		"issuer": p.URL, "jwks_uri": p.URL + "/keys", "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
	}))
	mux.HandleFunc("/keys", answer(map[string]any{"keys": []any{map[string]string{
		"use": "sig", "kty": "EC", "kid": "k", "crv": "P-256", "alg": "ES256", "x": b64(point[1:33]), "y": b64(point[33:]),
	}}}))
	return p
}

func (p *provider) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

func (p *provider) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": p.URL, "aud": "cluster", "exp": time.Now().Add(time.Hour).Unix(), "sub": "1"}
	maps.Copy(all, claims)
	body, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return signed + "." + b64(sig[:])
}

func authenticationConfig(p *provider, username string) string {
	ca := "      " + strings.ReplaceAll(strings.TrimSpace(p.ca()), "\n", "\n        ")
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: %s
    audiences: [cluster]
    certificateAuthority: |
  %s
  claimMappings:
    username:
      expression: %q
    groups:
      expression: "has(claims.teams) ? claims.teams : []"
  userValidationRules:
  - expression: "!user.username.startsWith('system:')"
    message: system users are not for this issuer
`, p.URL, ca, username)
}

func TestIssuersOfFile(t *testing.T) {
	p := newProvider(t)
	path := writeTemp(t, "authentication.yaml", authenticationConfig(p, "'oidc:' + claims.name"))
	h := start(t, func(c *Config) { c.Options.Authentication.ConfigFile = path })
	token := p.token(t, map[string]any{"name": "ann", "teams": []string{"dev"}})
	eventually(t, "the issuer's keys are there", func() bool {
		who, err := whoAmI(t, h.with(token))
		return err == nil && who.Username == "oidc:ann" && who.Groups[0] == "dev"
	})
	for name, bad := range map[string]string{
		"other audience": p.token(t, map[string]any{"name": "ann", "aud": "x"}),
		"expired":        p.token(t, map[string]any{"name": "ann", "exp": time.Now().Add(-time.Minute).Unix()}),
		"no name":        p.token(t, nil),
		"forged":         token[:len(token)-4] + "AAAA",
	} {
		if _, err := whoAmI(t, h.with(bad)); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: got %v, want Unauthorized", name, err)
		}
	}
	// A file that cannot be used changes nothing, a good one does.
	if err := os.WriteFile(path, []byte("kind: x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(authenticationConfig(p, "'new:' + claims.name")), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the changed file is in force", func() bool {
		who, err := whoAmI(t, h.with(token))
		return err == nil && who.Username == "new:ann"
	})
}

func TestSecretsWithTokens(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "old"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secrets := h.admin.CoreV1().Secrets("default")
	s, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "old-", Annotations: map[string]string{corev1.ServiceAccountNameKey: "old"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := string(s.Data["token"])
	who, err := whoAmI(t, h.with(token))
	if err != nil || who.Username != "system:serviceaccount:default:old" {
		t.Fatalf("got %+v, %v", who, err)
	}
	if err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := whoAmI(t, h.with(token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("after its secret is gone: got %v, want Unauthorized", err)
	}
}
