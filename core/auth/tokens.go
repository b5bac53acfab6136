package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// deletionLeeway is how long a token outlives the deletion timestamp of what it
// is bound to, so that a pod can still report its own end.
const deletionLeeway = 60 * time.Second

// Objects finds what tokens are bound to. A missing object is an
// apierrors.IsNotFound error. What is returned is only read.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// Tokens issues and authenticates service account tokens. It may be used
// concurrently.
type Tokens struct {
	issuer   string
	audience []string // of the API server: what a token without audience gets, and what a request must have
	key      *ecdsa.PrivateKey
	kid      string
	objects  Objects
	now      func() time.Time

	seen signatures
}

var _ authenticator.Token = (*Tokens)(nil)

// Issuer names the issuer of the tokens of a cluster with this DNS domain.
func Issuer(domain string) string { return "https://kubernetes.default.svc." + domain }

// NewTokens returns the issuer and authenticator of a cluster. The signer has to
// be an ECDSA P-256 key, as pki.Authority has it.
func NewTokens(domain string, signer crypto.Signer, objects Objects) (*Tokens, error) {
	key, ok := signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("sign service account tokens: got a key of type %T, want ECDSA P-256", signer)
	}
	kid, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	issuer := Issuer(domain)
	return &Tokens{issuer: issuer, audience: []string{issuer}, key: key, kid: kid, objects: objects, now: time.Now}, nil
}

// Audiences is what the API server calls itself.
func (t *Tokens) Audiences() authenticator.Audiences { return authenticator.Audiences(t.audience) }

// claims are those of upstream's tokens, in their order.
type claims struct {
	Audience  audience      `json:"aud,omitempty"`
	Expiry    int64         `json:"exp"`
	IssuedAt  int64         `json:"iat"`
	Issuer    string        `json:"iss"`
	ID        string        `json:"jti"`
	Private   privateClaims `json:"kubernetes.io"`
	NotBefore int64         `json:"nbf"`
	Subject   string        `json:"sub"`
}

// privateClaims are under the key kubernetes.io.
type privateClaims struct {
	Namespace      string `json:"namespace,omitempty"`
	Node           *ref   `json:"node,omitempty"`
	Pod            *ref   `json:"pod,omitempty"`
	Secret         *ref   `json:"secret,omitempty"`
	ServiceAccount ref    `json:"serviceaccount"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

func refTo(o metav1.Object) *ref { return &ref{Name: o.GetName(), UID: string(o.GetUID())} }

// audience is a string or a list of them on the wire.
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// Issue makes a token for sa. At most one of pod, secret and node binds it; a
// pod may come with the node it runs on, which is then recorded only.
func (t *Tokens) Issue(_ context.Context, sa *corev1.ServiceAccount, pod *corev1.Pod, secret *corev1.Secret, node *corev1.Node,
	audiences []string, expirationSeconds int64) (token string, expires time.Time, err error) {
	if pod != nil && secret != nil || secret != nil && node != nil {
		return "", time.Time{}, errors.New("issue token: it can be bound to one object only")
	}
	if expirationSeconds <= 0 {
		return "", time.Time{}, fmt.Errorf("issue token: an expiration of %d s is not positive", expirationSeconds)
	}
	if len(audiences) == 0 {
		audiences = t.audience
	}
	now := t.now()
	expires = now.Add(time.Duration(expirationSeconds) * time.Second).Truncate(time.Second)
	c := claims{
		Audience: audiences, Issuer: t.issuer, ID: string(uuid.NewUUID()),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: expires.Unix(),
		Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name),
		Private: privateClaims{Namespace: sa.Namespace, ServiceAccount: *refTo(sa)},
	}
	if pod != nil {
		c.Private.Pod = refTo(pod)
		if node == nil && pod.Spec.NodeName != "" {
			c.Private.Node = &ref{Name: pod.Spec.NodeName}
		}
	}
	if secret != nil {
		c.Private.Secret = refTo(secret)
	}
	if node != nil {
		c.Private.Node = refTo(node)
	}
	token, err = sign(t.key, t.kid, c)
	return token, expires, err
}

// AuthenticateToken checks a bearer token. One of another issuer is none of its
// business: false without an error.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	var c claims
	head, signed, sig, err := split(token, &c)
	if err != nil || c.Issuer != t.issuer {
		return nil, false, nil
	}
	if head.Algorithm != "ES256" || head.KeyID != t.kid {
		return nil, false, errors.New("service account token is signed by a key that this cluster does not have")
	}
	if !t.seen.has(token) {
		if !verify(&t.key.PublicKey, signed, sig) {
			return nil, false, errors.New("service account token has an invalid signature")
		}
		t.seen.add(token)
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = t.Audiences()
	}
	auds := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(auds) == 0 {
		return nil, false, fmt.Errorf("service account token is for audiences %q, not for %q", []string(c.Audience), []string(wanted))
	}
	if err := t.checkTime(&c); err != nil {
		return nil, false, err
	}
	if err := t.checkObjects(ctx, &c); err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: userOf(&c).UserInfo(), Audiences: auds}, true, nil
}

func (t *Tokens) checkTime(c *claims) error {
	now := t.now().Unix()
	if now > c.Expiry {
		return errors.New("service account token has expired")
	}
	if now < c.NotBefore {
		return errors.New("service account token is not valid yet")
	}
	return nil
}

// checkObjects sees that all that the token is bound to is still what it was.
func (t *Tokens) checkObjects(ctx context.Context, c *claims) error {
	p, ns := &c.Private, c.Private.Namespace
	if c.Subject != serviceaccount.MakeUsername(ns, p.ServiceAccount.Name) {
		return errors.New("service account token names another subject than its service account")
	}
	if err := check(t, "service account", &p.ServiceAccount, func(name string) (metav1.Object, error) {
		return t.objects.ServiceAccount(ctx, ns, name)
	}); err != nil {
		return err
	}
	switch {
	case p.Pod != nil:
		return check(t, "pod", p.Pod, func(name string) (metav1.Object, error) { return t.objects.Pod(ctx, ns, name) })
	case p.Secret != nil:
		return check(t, "secret", p.Secret, func(name string) (metav1.Object, error) { return t.objects.Secret(ctx, ns, name) })
	case p.Node != nil:
		return check(t, "node", p.Node, func(name string) (metav1.Object, error) { return t.objects.Node(ctx, name) })
	}
	return nil
}

func check(t *Tokens, kind string, r *ref, get func(string) (metav1.Object, error)) error {
	obj, err := get(r.Name)
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("service account token has been invalidated: %s %q is gone", kind, r.Name)
	}
	if err != nil {
		return fmt.Errorf("look up %s %q of service account token: %w", kind, r.Name, err)
	}
	if string(obj.GetUID()) != r.UID {
		return fmt.Errorf("service account token has been invalidated: %s %q has been made anew", kind, r.Name)
	}
	if d := obj.GetDeletionTimestamp(); d != nil && t.now().After(d.Add(deletionLeeway)) {
		return fmt.Errorf("service account token has been invalidated: %s %q has been deleted", kind, r.Name)
	}
	return nil
}

func userOf(c *claims) *serviceaccount.ServiceAccountInfo {
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: c.Private.Namespace, Name: c.Private.ServiceAccount.Name, UID: c.Private.ServiceAccount.UID,
		CredentialID: "JTI=" + c.ID,
	}
	if c.Private.Pod != nil {
		info.PodName, info.PodUID = c.Private.Pod.Name, c.Private.Pod.UID
	}
	if c.Private.Node != nil {
		info.NodeName, info.NodeUID = c.Private.Node.Name, c.Private.Node.UID
	}
	return info
}

// JWKS is the key set document served at /openid/v1/jwks.
func (t *Tokens) JWKS() ([]byte, error) {
	key, err := newJWK(&t.key.PublicKey, t.kid)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string][]jwk{"keys": {key}})
}

// Configuration is the document served at /.well-known/openid-configuration.
func (t *Tokens) Configuration() ([]byte, error) {
	return json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{t.issuer, t.issuer + "/openid/v1/jwks", []string{"id_token"}, []string{"public"}, []string{"ES256"}})
}

// signatures remembers tokens whose signature was good: checking one costs more
// than the rest of authentication. Only the signature is remembered; time and
// objects are checked at each use.
type signatures struct {
	mu     sync.RWMutex
	tokens map[string]struct{} // guarded by mu; at most maxSignatures
}

// maxSignatures bounds the memory to about 4 MB.
const maxSignatures = 4096

func (s *signatures) has(token string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.tokens[token]
	return ok
}

func (s *signatures) add(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil || len(s.tokens) >= maxSignatures {
		s.tokens = make(map[string]struct{}) // starting over costs one check per token in use
	}
	s.tokens[token] = struct{}{}
}

// clone keeps callers from changing a rule of the index.
func clone[T any](in []T) []T { return slices.Clone(in) }
