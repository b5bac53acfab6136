package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/pki"
)

// TestOIDCFlags: --oidc-* without a file.
func TestOIDCFlags(t *testing.T) {
	p := newProvider(t)
	ca := writeTemp(t, "ca.pem", p.ca())
	h := start(t, func(c *Config) {
		o := &c.Options.Authentication.OIDC
		o.IssuerURL, o.ClientID, o.CAFile = p.URL, "cluster", ca
		o.UsernameClaim, o.UsernamePrefix, o.GroupsClaim, o.GroupsPrefix = "name", "id:", "teams", "g:"
		o.RequiredClaims, o.SigningAlgs = map[string]string{"tenant": "one"}, []string{"ES256"}
	})
	good := map[string]any{"name": "ann", "teams": []string{"dev"}, "tenant": "one"}
	eventually(t, "the issuer's keys are there", func() bool {
		who, err := whoAmI(t, h.with(p.token(t, good)))
		return err == nil && who.Username == "id:ann" && slices.Equal(who.Groups, []string{"g:dev", "system:authenticated"})
	})
	for name, bad := range map[string]map[string]any{
		"without the required claim": {"name": "ann"},
		"another tenant":             {"name": "ann", "tenant": "two"},
		"for another client":         {"name": "ann", "tenant": "one", "aud": "other"},
	} {
		if _, err := whoAmI(t, h.with(p.token(t, bad))); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: got %v, want Unauthorized", name, err)
		}
	}
}

// TestTokenWebhook: a service is asked about tokens, once for as long as its answer holds.
func TestTokenWebhook(t *testing.T) {
	var asked atomic.Int64
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if review.Spec.Token == "good" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "ann", Groups: []string{"dev"}}}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	ca := writeTemp(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})))
	path := writeTemp(t, "webhook.kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, hook.URL, ca))
	h := start(t, func(c *Config) { c.Options.Authentication.Webhook.ConfigFile = path })
	for range 3 {
		who, err := whoAmI(t, h.with("good"))
		if err != nil || who.Username != "ann" || !slices.Equal(who.Groups, []string{"dev", "system:authenticated"}) {
			t.Fatalf("got %+v, %v", who, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if _, err := whoAmI(t, h.with("bad")); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token that the service does not know: %v", err)
	}
}

// TestClientCAFile: certificates of another authority are good as well.
func TestClientCAFile(t *testing.T) {
	other, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := writeTemp(t, "ca.pem", string(other.CAPEM()))
	h := start(t, func(c *Config) { c.Options.Authentication.ClientCAFile = path })
	for name, authority := range map[string]*pki.Authority{"the cluster's": h.pki, "another": other} {
		pair, err := authority.ClientPair("ann", []string{"dev"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := h.bare()
		c.CertData, c.KeyData = pair.Certificate, pair.PrivateKey
		if who, err := whoAmI(t, c); err != nil || who.Username != "ann" {
			t.Errorf("%s: got %+v, %v", name, who, err)
		}
	}
}

// TestCertificateEndsOnAnOpenConnection: a connection outlives its certificate, its rights
// do not.
func TestCertificateEndsOnAnOpenConnection(t *testing.T) {
	var moved atomic.Int64
	h := start(t, func(c *Config) { c.now = func() time.Time { return time.Now().Add(time.Duration(moved.Load())) } })
	pair, err := h.pki.ClientPair("ann", nil, pki.LeafValidity)
	if err != nil {
		t.Fatal(err)
	}
	c := h.bare()
	c.CertData, c.KeyData = pair.Certificate, pair.PrivateKey
	ann := client(t, c)
	ask := func() error {
		_, err := ann.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err
	}
	const month = 30 * 24 * time.Hour
	for _, months := range []int64{0, 11} {
		moved.Store(months * int64(month))
		if err := ask(); err != nil {
			t.Errorf("after %d months: %v", months, err)
		}
	}
	moved.Store(int64(13 * month))
	if err := ask(); !apierrors.IsUnauthorized(err) {
		t.Errorf("after 13 months: got %v, want Unauthorized", err)
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writeTemp(t, "sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

// TestKeysAndIssuersOfTokens: after a change of key, issuer and audience the tokens of
// before are good, and the limits of life hold.
func TestKeysAndIssuersOfTokens(t *testing.T) {
	dir, signing := t.TempDir(), keyFile(t)
	ctx := t.Context()
	h, stop := startIn(t, dir, "127.0.0.1:0")
	if _, err := h.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := tokenFor(ctx, t, h.admin, "app", "")
	stop()
	h, stop = startIn(t, dir, "127.0.0.1:0", func(c *Config) {
		o := &c.Options.Authentication.Accounts
		o.SigningKeyFile, o.MaxExpiration = signing, 2*time.Hour
		o.Issuers = []string{"https://new.example.com", "https://kubernetes.default.svc.cluster.local"}
		o.Audiences = []string{"https://new.example.com", "https://kubernetes.default.svc.cluster.local"}
	})
	defer stop()
	after := tokenFor(ctx, t, h.admin, "app", "")
	for name, token := range map[string]string{"before": before, "after": after} {
		if who, err := whoAmI(t, h.with(token)); err != nil || who.Username != "system:serviceaccount:default:app" {
			t.Errorf("the token of %s: got %+v, %v", name, who, err)
		}
	}
	if issuer := tokenClaim(t, after, "iss"); issuer != "https://new.example.com" {
		t.Errorf("issuer: %v", issuer)
	}
	day := int64(24 * 3600)
	long, err := h.admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "app",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day, Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(long.Status.ExpirationTimestamp.Time); left > 2*time.Hour || left < time.Hour {
		t.Errorf("a token of a day where two hours are the most lives for %s", left)
	}
	if _, err := whoAmI(t, h.with(long.Status.Token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: %v", err)
	}
	review, err := h.admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: long.Status.Token, Audiences: []string{"vault", "x"}}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || !slices.Equal(review.Status.Audiences, []string{"vault"}) {
		t.Errorf("review for its audience: %+v, %v", review.Status, err)
	}
}

func tokenClaim(t *testing.T, token, name string) any {
	t.Helper()
	parts := strings.Split(token, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(body, &claims); err != nil {
		t.Fatal(err)
	}
	return claims[name]
}

// TestAnonymousModes: where requests without identity are served.
func TestAnonymousModes(t *testing.T) {
	for mode, want := range map[anonymousMode][2]int{ // of /version and of pods
		"paths": {http.StatusOK, http.StatusUnauthorized}, "true": {http.StatusOK, http.StatusForbidden}, "false": {http.StatusUnauthorized, http.StatusUnauthorized},
	} {
		t.Run(string(mode), func(t *testing.T) {
			h := start(t, func(c *Config) { c.Options.Authentication.Anonymous = mode })
			client, err := rest.HTTPClientFor(h.bare())
			if err != nil {
				t.Fatal(err)
			}
			for i, path := range []string{"/version", "/api/v1/pods"} {
				resp, err := client.Get(h.bare().Host + path)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != want[i] {
					t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want[i])
				}
			}
		})
	}
}
