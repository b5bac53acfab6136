package bootstrap

import (
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSign: the signature is the one that Python's hmac and base64 make.
func TestSign(t *testing.T) {
	const want = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..xkPhz9qtNRQXCP_XEz8Is8VscWZrJTQNmIw5ldJ_3kk"
	if got, err := sign("content\n", "abcdef", "0123456789abcdef"); err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestSignatures(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	token := func(id, usage, expiration string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: namePrefix + id}, Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{
			"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte(usage),
		}}
		if expiration != "" {
			s.Data["expiration"] = []byte(expiration)
		}
		return s
	}
	misnamed := token("aaaaa5", "true", "")
	misnamed.Name = "other"
	other := token("aaaaa6", "true", "")
	other.Type = corev1.SecretTypeOpaque
	all := []*corev1.Secret{
		token("aaaaa0", "true", ""), token("aaaaa1", "true", "2026-11-22T01:00:00Z"), token("aaaaa2", "true", "2026-11-21T23:00:00Z"),
		token("aaaaa3", "false", ""), token("aaaaa4", "true", "tomorrow"), misnamed, other, token("AAAAAA", "true", ""),
	}
	data := map[string]string{"kubeconfig": "x", "other": "y", "jws-kubeconfig-zzzzzz": "old"}
	got, next, err := signatures(data, all, now)
	if want := []string{"jws-kubeconfig-aaaaa0", "jws-kubeconfig-aaaaa1", "kubeconfig", "other"}; err != nil || !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if !next.Equal(now.Add(time.Hour)) {
		t.Errorf("the next ends at %s", next)
	}
	delete(data, "kubeconfig")
	if got, _, err := signatures(data, all, now); err != nil || len(got) != 1 {
		t.Errorf("without a kubeconfig: got %v, %v", got, err)
	}
}
