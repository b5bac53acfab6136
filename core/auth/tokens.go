package auth

import (
	"context"
	"crypto"
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
	"k8s.io/apiserver/pkg/audit"
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

// TokenConfig says how service account tokens are issued and checked.
type TokenConfig struct {
	// Issuers are the values of iss that count; the first is signed with. Required.
	Issuers []string
	// Audiences are of the API server: what a token without audience gets, and what
	// a request must have. Default: Issuers.
	Audiences []string
	// Signer signs. Required.
	Signer crypto.Signer
	// Keys are further ones whose tokens count.
	Keys []crypto.PublicKey
	// Objects are what tokens are bound to. Required.
	Objects Objects
	// MaxExpiration shortens tokens asked for. 0: no limit.
	MaxExpiration time.Duration
	// Extend lets pods' tokens of about an hour live a year, see Issue.
	Extend bool
	// JWKSURI is where the discovery document says that keys are. Default: the
	// first issuer's URL and /openid/v1/jwks.
	JWKSURI string
	// CA is what goes into secrets of type kubernetes.io/service-account-token.
	CA []byte
	// MarkUsed writes LabelLastUsed to such a secret when its token is used on another
	// day than before. An error is its own to report. Default: nothing is written.
	MarkUsed func(ctx context.Context, secret *corev1.Secret, day string)
}

// Tokens issues and authenticates service account tokens. It may be used
// concurrently.
type Tokens struct {
	TokenConfig
	signer verifier // the public half of Signer
	keys   map[string]*verifier
	order  []*verifier // of keys, signer first
	now    func() time.Time

	seen    signatures
	marking sync.Map // of the UIDs of secrets that MarkUsed writes now
}

var _ authenticator.Token = (*Tokens)(nil)

// Issuer names the issuer of the tokens of a cluster with this DNS domain.
func Issuer(domain string) string { return "https://kubernetes.default.svc." + domain }

// NewTokens returns the issuer and authenticator of a cluster.
func NewTokens(c TokenConfig) (*Tokens, error) {
	if len(c.Issuers) == 0 || c.Signer == nil || c.Objects == nil {
		return nil, errors.New("service account tokens need an issuer, a key and a way to look up objects")
	}
	if len(c.Audiences) == 0 {
		c.Audiences = c.Issuers
	}
	t := &Tokens{TokenConfig: c, keys: map[string]*verifier{}, now: time.Now}
	for i, key := range append([]crypto.PublicKey{c.Signer.Public()}, c.Keys...) {
		v, err := newVerifier(key)
		if err != nil {
			return nil, fmt.Errorf("service account keys: %w", err)
		}
		if i == 0 {
			t.signer = v
		}
		if t.keys[v.kid] == nil {
			t.keys[v.kid] = &v
			t.order = append(t.order, &v)
		}
	}
	if t.JWKSURI == "" {
		t.JWKSURI = t.Issuers[0] + "/openid/v1/jwks"
	}
	return t, nil
}

// APIAudiences is what the API server calls itself.
func (t *Tokens) APIAudiences() authenticator.Audiences { return t.Audiences }

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
	// WarnAfter is when a token that was extended should have been replaced.
	WarnAfter int64 `json:"warnafter,omitempty"`
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

const (
	// podTokenSeconds is what the ServiceAccount admission plugin asks for: an hour
	// and 7 s, by which such a request is told from others.
	podTokenSeconds = 60*60 + 7
	// extendedSeconds is how long such a token really lives if Extend is on.
	extendedSeconds = 365 * 24 * 60 * 60
)

// Issue makes a token for sa. At most one of pod, secret and node binds it; a
// pod may come with the node it runs on, which is then recorded only. The token
// of a pod that the ServiceAccount admission plugin gave it is refreshed each
// hour, but if Extend is on lives longer than expires says, for programs that
// read it once. More seconds than MaxExpiration are cut.
func (t *Tokens) Issue(_ context.Context, sa *corev1.ServiceAccount, pod *corev1.Pod, secret *corev1.Secret, node *corev1.Node,
	audiences []string, expirationSeconds int64) (token string, expires time.Time, err error) {
	if pod != nil && secret != nil || secret != nil && node != nil {
		return "", time.Time{}, errors.New("issue token: it can be bound to one object only")
	}
	if expirationSeconds <= 0 {
		return "", time.Time{}, fmt.Errorf("issue token: an expiration of %d s is not positive", expirationSeconds)
	}
	if len(audiences) == 0 {
		audiences = t.Audiences
	}
	if limit := int64(t.MaxExpiration / time.Second); limit > 0 && expirationSeconds > limit {
		expirationSeconds = limit
	}
	now := t.now()
	expires = now.Add(time.Duration(expirationSeconds) * time.Second).Truncate(time.Second)
	c := claims{
		Audience: audiences, Issuer: t.Issuers[0], ID: string(uuid.NewUUID()),
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
	if t.Extend && pod != nil && expirationSeconds == podTokenSeconds && len(authenticator.Audiences(audiences).Intersect(t.Audiences)) > 0 {
		c.Private.WarnAfter, c.Expiry = c.Expiry, now.Unix()+extendedSeconds
		if t.MaxExpiration > 0 {
			c.Expiry = min(c.Expiry, now.Add(t.MaxExpiration).Unix())
		}
	}
	token, err = t.signer.sign(t.Signer, c)
	return token, expires, err
}

// AuthenticateToken checks a bearer token. One of another issuer is none of its
// business: false without an error.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	var c struct {
		claims
		legacyClaims
	}
	head, signed, sig, err := split(token, &c)
	if err != nil || c.Issuer != legacyIssuer && !slices.Contains(t.Issuers, c.Issuer) {
		return nil, false, nil
	}
	if err := t.checkSignature(token, head, signed, sig); err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = t.APIAudiences()
	}
	if c.Issuer == legacyIssuer {
		return t.authenticateLegacy(ctx, token, c.Subject, &c.legacyClaims, wanted)
	}
	auds := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(auds) == 0 {
		return nil, false, fmt.Errorf("service account token is for audiences %q, not for %q", []string(c.Audience), []string(wanted))
	}
	if err := t.checkTime(&c.claims); err != nil {
		return nil, false, err
	}
	if err := t.checkObjects(ctx, &c.claims); err != nil {
		return nil, false, err
	}
	if w := c.Private.WarnAfter; w != 0 && t.now().Unix() > w {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token", "subject: "+c.Subject+
			fmt.Sprintf(", seconds after warning threshold: %d", t.now().Unix()-w))
	}
	return &authenticator.Response{User: userOf(&c.claims).UserInfo(), Audiences: auds}, true, nil
}

func (t *Tokens) checkSignature(token string, head header, signed string, sig []byte) error {
	if t.seen.has(token) {
		return nil
	}
	try := t.order // a token of an old issuer may name no key
	if head.KeyID != "" {
		try = nil
		if v := t.keys[head.KeyID]; v != nil {
			try = []*verifier{v}
		}
	}
	known := false
	for _, v := range try {
		if v.alg != head.Algorithm {
			continue
		}
		known = true
		if v.verify(signed, sig) {
			t.seen.add(token)
			return nil
		}
	}
	if !known {
		return errors.New("service account token is signed by a key that this cluster does not have")
	}
	return errors.New("service account token has an invalid signature")
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
		return t.Objects.ServiceAccount(ctx, ns, name)
	}); err != nil {
		return err
	}
	switch {
	case p.Pod != nil:
		return check(t, "pod", p.Pod, func(name string) (metav1.Object, error) { return t.Objects.Pod(ctx, ns, name) })
	case p.Secret != nil:
		return check(t, "secret", p.Secret, func(name string) (metav1.Object, error) { return t.Objects.Secret(ctx, ns, name) })
	case p.Node != nil:
		return check(t, "node", p.Node, func(name string) (metav1.Object, error) { return t.Objects.Node(ctx, name) })
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
	var keys []jwk
	for _, v := range t.order {
		key, err := v.jwk()
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return json.Marshal(map[string][]jwk{"keys": keys})
}

// Configuration is the document served at /.well-known/openid-configuration.
func (t *Tokens) Configuration() ([]byte, error) {
	var algs []string
	for _, v := range t.order {
		if !slices.Contains(algs, v.alg) {
			algs = append(algs, v.alg)
		}
	}
	slices.Sort(algs)
	return json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		JWKSURI       string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{t.Issuers[0], t.JWKSURI, []string{"id_token"}, []string{"public"}, algs})
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
