package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// Names that the API server and the controller have agreed upon (KEP-2799, KEP-2800).
const (
	labelLastUsed     = "kubernetes.io/legacy-token-last-used"
	labelInvalidSince = "kubernetes.io/legacy-token-invalid-since"
	trackingConfigMap = "kube-apiserver-legacy-service-account-token-tracking"
	trackingSince     = "since"
)

// round is how often all secrets are looked at: what is counted is days.
const round = 24 * time.Hour

// Unused is the legacyserviceaccounttokencleaner controller. Its one key is a round.
type Unused struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	period   time.Duration
	now      func() time.Time
	loop     *control.Loop
}

// NewUnused makes the controller; period is for how long a token is not used before it is
// marked, and then before it is deleted.
func NewUnused(c *control.Context, period time.Duration) (*Unused, error) {
	core := c.Informers.Core().V1()
	u := &Unused{client: c.Client, accounts: core.ServiceAccounts().Lister(), pods: core.Pods().Lister(), period: period, now: time.Now}
	u.loop = control.NewLoop(c, "legacyserviceaccounttokencleaner", 1, u.sync)
	u.loop.EnqueueKey("all")
	return u, nil
}

// Run works until ctx ends.
func (u *Unused) Run(ctx context.Context) error { return u.loop.Run(ctx) }

// verdict is what becomes of a secret.
type verdict int

const (
	keep verdict = iota
	mark
	drop
)

// judge says so of a secret whose use is noted since the day tracked.
func judge(s *corev1.Secret, tracked time.Time, period time.Duration, now time.Time) verdict {
	used := tracked
	if t, err := time.Parse(time.DateOnly, s.Labels[labelLastUsed]); err == nil {
		used = t
	}
	if now.Before(used.Add(period)) {
		return keep
	}
	invalid, err := time.Parse(time.DateOnly, s.Labels[labelInvalidSince])
	switch {
	case err != nil:
		return mark
	case now.Before(invalid.Add(period)):
		return keep
	}
	return drop
}

func (u *Unused) sync(ctx context.Context, key string) error {
	u.loop.EnqueueAfter(key, round)
	tracking, err := u.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, trackingConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get config map %s: %w", trackingConfigMap, err)
	}
	since, err := time.Parse(time.DateOnly, tracking.Data[trackingSince])
	if err != nil || u.now().Before(since.Add(u.period)) {
		return nil // not long enough to say of any token that it is not used
	}
	accounts, err := u.accounts.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list service accounts: %w", err)
	}
	for _, a := range accounts {
		for _, ref := range a.Secrets { // what people made is theirs to delete
			if err := u.look(ctx, a, ref.Name, since); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *Unused) look(ctx context.Context, a *corev1.ServiceAccount, name string, since time.Time) error {
	s, err := u.client.CoreV1().Secrets(a.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get secret %s/%s: %w", a.Namespace, name, err)
	}
	if s.Type != corev1.SecretTypeServiceAccountToken || stale(s, a) || s.Annotations[corev1.ServiceAccountNameKey] != a.Name {
		return nil
	}
	now := u.now().UTC()
	v := judge(s, since, u.period, now)
	if v == keep {
		return nil
	}
	if mounted, err := u.mounted(s); mounted || err != nil {
		return err
	}
	if v == drop {
		return remove(ctx, u.client, s)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": s.UID, "resourceVersion": s.ResourceVersion, "labels": map[string]string{labelInvalidSince: now.Format(time.DateOnly)},
	}})
	if err == nil {
		_, err = u.client.CoreV1().Secrets(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark secret %s as invalid: %w", control.Key(s), err)
	}
	return nil
}

// mounted says whether a pod has the secret as a volume.
func (u *Unused) mounted(s *corev1.Secret) (bool, error) {
	pods, err := u.pods.Pods(s.Namespace).List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list pods of namespace %s: %w", s.Namespace, err)
	}
	return slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Secret != nil && v.Secret.SecretName == s.Name })
	}), nil
}
