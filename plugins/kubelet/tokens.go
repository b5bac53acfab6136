package kubelet

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
)

// tokens gets service account tokens bound to pods, and keeps them until they have used 80% of their life (or are a day old).
type tokens struct {
	client kubernetes.Interface

	mu    sync.Mutex // guards items
	items map[tokenKey]tokenItem
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type tokenItem struct {
	token   string
	refresh time.Time
	expires time.Time
}

func newTokens(client kubernetes.Interface) *tokens {
	return &tokens{client: client, items: map[tokenKey]tokenItem{}}
}

// get returns a token and when it should be asked for again.
func (t *tokens) get(ctx context.Context, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	seconds := int64(3600)
	if src.ExpirationSeconds != nil {
		seconds = *src.ExpirationSeconds
	}
	key := tokenKey{pod.UID, src.Audience, seconds}
	now := time.Now()
	t.mu.Lock()
	item, ok := t.items[key]
	t.mu.Unlock()
	if ok && now.Before(item.refresh) {
		return item.token, item.refresh, nil
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		req.Spec.Audiences = []string{src.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	resp, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		if ok && now.Before(item.expires) {
			return item.token, now.Add(time.Minute), nil // the old one still works; try again soon
		}
		return "", time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	expires := resp.Status.ExpirationTimestamp.Time
	life := expires.Sub(now)
	item = tokenItem{resp.Status.Token, now.Add(wait.Jitter(min(life*7/10, 24*time.Hour), 0.1)), expires}
	t.mu.Lock()
	t.items[key] = item
	t.mu.Unlock()
	return item.token, item.refresh, nil
}

// forget drops a pod's tokens.
func (t *tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.items {
		if k.pod == uid {
			delete(t.items, k)
		}
	}
}
