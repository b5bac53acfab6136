package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// fakeObjects holds objects by kind/namespace/name.
type fakeObjects map[string]runtime.Object

func find[T runtime.Object](f fakeObjects, key string) (T, error) {
	if o, ok := f[key].(T); ok {
		return o, nil
	}
	var none T
	return none, apierrors.NewNotFound(corev1.Resource("things"), key)
}

func (f fakeObjects) ServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](f, "sa/"+ns+"/"+name)
}
func (f fakeObjects) Pod(_ context.Context, ns, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](f, "pod/"+ns+"/"+name)
}
func (f fakeObjects) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](f, "secret/"+ns+"/"+name)
}
func (f fakeObjects) Node(_ context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](f, "node/"+name)
}

func meta(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}
}

func newTokens(t testing.TB, objects Objects) *Tokens {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := NewTokens(TokenConfig{Issuers: []string{Issuer("cluster.local")}, Signer: key, Objects: objects})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokens(t *testing.T) {
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "u1")}
	pod := &corev1.Pod{ObjectMeta: meta("ns", "p", "u2"), Spec: corev1.PodSpec{NodeName: "n"}}
	secret := &corev1.Secret{ObjectMeta: meta("ns", "s", "u3")}
	node := &corev1.Node{ObjectMeta: meta("", "n", "u4")}
	long := metav1.NewTime(time.Now().Add(-2 * time.Minute))
	short := metav1.NewTime(time.Now().Add(-30 * time.Second))

	tests := map[string]struct {
		pod       *corev1.Pod
		secret    *corev1.Secret
		node      *corev1.Node
		audiences []string
		ask       []string // audiences asked for; nil: the API server's
		change    func(fakeObjects)
		later     time.Duration
		wantErr   string
	}{
		"unbound":        {},
		"bound to a pod": {pod: pod},
		"secret":         {secret: secret},
		"node":           {node: node},
		"pod on a node":  {pod: pod, node: node},
		"expired":        {later: time.Hour + 2*time.Second, wantErr: "expired"},
		"not yet valid":  {later: -time.Minute, wantErr: "not valid yet"},
		"other audience": {audiences: []string{"vault"}, wantErr: "for audiences"},
		"asked audience": {audiences: []string{"vault"}, ask: []string{"vault", "x"}},
		"account gone":   {change: func(f fakeObjects) { delete(f, "sa/ns/app") }, wantErr: `service account "app" is gone`},
		"account made anew": {change: func(f fakeObjects) { f["sa/ns/app"] = &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "u9")} },
			wantErr: "made anew"},
		"pod gone":    {pod: pod, change: func(f fakeObjects) { delete(f, "pod/ns/p") }, wantErr: `pod "p" is gone`},
		"secret gone": {secret: secret, change: func(f fakeObjects) { delete(f, "secret/ns/s") }, wantErr: `secret "s" is gone`},
		"node gone":   {node: node, change: func(f fakeObjects) { delete(f, "node/n") }, wantErr: `node "n" is gone`},
		"pod being deleted": {pod: pod, change: func(f fakeObjects) {
			p := pod.DeepCopy()
			p.DeletionTimestamp = &short
			f["pod/ns/p"] = p
		}},
		"pod deleted long ago": {pod: pod, wantErr: "has been deleted", change: func(f fakeObjects) {
			p := pod.DeepCopy()
			p.DeletionTimestamp = &long
			f["pod/ns/p"] = p
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			objects := fakeObjects{"sa/ns/app": sa, "pod/ns/p": pod, "secret/ns/s": secret, "node/n": node}
			tokens := newTokens(t, objects)
			token, expires, err := tokens.Issue(t.Context(), sa, tt.pod, tt.secret, tt.node, tt.audiences, 3600)
			if err != nil {
				t.Fatalf("Issue: %v", err)
			}
			if d := time.Until(expires); d < 59*time.Minute || d > time.Hour {
				t.Errorf("token expires in %v, want an hour", d)
			}
			if tt.change != nil {
				tt.change(objects)
			}
			tokens.now = func() time.Time { return time.Now().Add(tt.later) }
			ctx := t.Context()
			if tt.ask != nil {
				ctx = authenticator.WithAudiences(ctx, tt.ask)
			}
			resp, ok, err := tokens.AuthenticateToken(ctx, token)
			if tt.wantErr != "" {
				if ok || err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("got %v, %v, want an error with %q", ok, err, tt.wantErr)
				}
				return
			}
			if err != nil || !ok {
				t.Fatalf("AuthenticateToken: %v, %v", ok, err)
			}
			if got := resp.User.GetName(); got != "system:serviceaccount:ns:app" {
				t.Errorf("user is %q", got)
			}
			if tt.pod != nil && resp.User.GetExtra()["authentication.kubernetes.io/pod-uid"][0] != "u2" {
				t.Errorf("extra is %v, want the pod's uid", resp.User.GetExtra())
			}
			if tt.pod != nil && resp.User.GetExtra()["authentication.kubernetes.io/node-name"][0] != "n" {
				t.Errorf("extra is %v, want the node's name", resp.User.GetExtra())
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "u1")}
	objects := fakeObjects{"sa/ns/app": sa}
	tokens, other := newTokens(t, objects), newTokens(t, objects)
	good, _, err := tokens.Issue(t.Context(), sa, nil, nil, nil, nil, 3600)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := other.Issue(t.Context(), sa, nil, nil, nil, nil, 3600)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	encode := base64.RawURLEncoding.EncodeToString
	body, _ := base64.RawURLEncoding.DecodeString(parts[1])
	admin := encode([]byte(strings.Replace(string(body), ":app", ":boss", 1)))
	forged := map[string]string{
		"empty":          "",
		"one part":       "abc",
		"four parts":     good + ".x",
		"another key":    foreign,
		"another body":   parts[0] + "." + admin + "." + parts[2],
		"no algorithm":   encode([]byte(`{"alg":"none","kid":"`+tokens.signer.kid+`"}`)) + "." + parts[1] + ".",
		"HMAC":           encode([]byte(`{"alg":"HS256","kid":"`+tokens.signer.kid+`"}`)) + "." + parts[1] + "." + parts[2],
		"cut signature":  good[:len(good)-4],
		"zero signature": parts[0] + "." + parts[1] + "." + encode(make([]byte, 64)),
		"padding":        good + "=",
	}
	for name, token := range forged {
		t.Run(name, func(t *testing.T) {
			if resp, ok, _ := tokens.AuthenticateToken(t.Context(), token); ok {
				t.Errorf("accepted as %v", resp.User)
			}
		})
	}
	if _, ok, err := tokens.AuthenticateToken(t.Context(), good); !ok || err != nil {
		t.Errorf("the good one was refused: %v", err)
	}
}

func TestDiscoveryDocuments(t *testing.T) {
	tokens := newTokens(t, fakeObjects{})
	data, err := tokens.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got %s, %v", data, err)
	}
	x, err := base64.RawURLEncoding.DecodeString(set.Keys[0]["x"])
	if err != nil || len(x) != 32 || set.Keys[0]["kid"] != tokens.signer.kid {
		t.Errorf("key set is %s", data)
	}
	data, err = tokens.Configuration()
	if err != nil || !strings.Contains(string(data), `"jwks_uri":"https://kubernetes.default.svc.cluster.local/openid/v1/jwks"`) {
		t.Errorf("configuration is %s, %v", data, err)
	}
}

func FuzzAuthenticateToken(f *testing.F) {
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "u1")}
	tokens := newTokens(f, fakeObjects{"sa/ns/app": sa})
	token, _, err := tokens.Issue(f.Context(), sa, nil, nil, nil, nil, 3600)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, s string) {
		if _, ok, _ := tokens.AuthenticateToken(context.Background(), s); ok && s != token {
			t.Errorf("accepted %q", s)
		}
	})
}

func BenchmarkAuthenticateToken(b *testing.B) {
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "app", "u1")}
	tokens := newTokens(b, fakeObjects{"sa/ns/app": sa})
	token, _, err := tokens.Issue(b.Context(), sa, nil, nil, nil, nil, 3600)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := tokens.AuthenticateToken(b.Context(), token); !ok {
			b.Fatal(err)
		}
	}
}
