package bootstrap

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	clusterInfo   = "cluster-info"
	kubeconfigKey = "kubeconfig"
	signaturesKey = "jws-kubeconfig-" // before a token's id
)

// tokens are an informer of the tokens alone.
func tokens(c *control.Context) *control.Part[*corev1.Secret] {
	return control.NewPart[*corev1.Secret](c, metav1.NamespaceSystem, fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)),
		func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Secrets().Informer()
		})
}

// Cleaner is the tokencleaner controller. Keys are names of secrets.
type Cleaner struct {
	client kubernetes.Interface
	tokens *control.Part[*corev1.Secret]
	now    func() time.Time
	loop   *control.Loop
}

// NewCleaner registers the controller's handlers; Run does the work.
func NewCleaner(c *control.Context) (*Cleaner, error) {
	l := &Cleaner{client: c.Client, tokens: tokens(c), now: time.Now}
	l.loop = control.NewLoop(c, "tokencleaner", 1, l.sync)
	add := func(s *corev1.Secret) {
		if end, ends := expiry(s); ends {
			l.loop.EnqueueAfter(s.Name, end.Sub(l.now()))
		}
	}
	if _, err := control.Handle(l.tokens.Informer, add, func(_, s *corev1.Secret) { add(s) }, nil); err != nil {
		return nil, fmt.Errorf("watch bootstrap tokens: %w", err)
	}
	return l, nil
}

// Warm keeps the cache of tokens.
func (l *Cleaner) Warm(ctx context.Context) error { return l.tokens.Warm(ctx) }

// Run works until ctx ends.
func (l *Cleaner) Run(ctx context.Context) error { return l.loop.Run(ctx) }

func (l *Cleaner) sync(ctx context.Context, name string) error {
	s, ok := l.tokens.Get(metav1.NamespaceSystem, name)
	if !ok {
		return nil
	}
	end, ends := expiry(s)
	if !ends {
		return nil
	}
	if wait := end.Sub(l.now()); wait > 0 {
		l.loop.EnqueueAfter(name, wait)
		return nil
	}
	err := l.client.CoreV1().Secrets(s.Namespace).Delete(ctx, name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete expired bootstrap token %s: %w", name, err)
	}
	return nil
}

// Signer is the bootstrapsigner controller. Its one key is the config map's.
type Signer struct {
	client kubernetes.Interface
	tokens *control.Part[*corev1.Secret]
	info   *control.Part[*corev1.ConfigMap]
	now    func() time.Time
	loop   *control.Loop
}

// NewSigner registers the controller's handlers; Run does the work.
func NewSigner(c *control.Context) (*Signer, error) {
	s := &Signer{
		client: c.Client, tokens: tokens(c), now: time.Now,
		info: control.NewPart[*corev1.ConfigMap](c, metav1.NamespacePublic, fields.OneTermEqualSelector(metav1.ObjectNameField, clusterInfo),
			func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
				return f.Core().V1().ConfigMaps().Informer()
			}),
	}
	s.loop = control.NewLoop(c, "bootstrapsigner", 1, s.sync)
	all := func(*corev1.Secret) { s.loop.EnqueueKey(clusterInfo) }
	if _, err := control.Handle(s.tokens.Informer, all, func(_, t *corev1.Secret) { all(t) }, all); err != nil {
		return nil, fmt.Errorf("watch bootstrap tokens: %w", err)
	}
	info := func(*corev1.ConfigMap) { s.loop.EnqueueKey(clusterInfo) }
	if _, err := control.Handle(s.info.Informer, info, func(_, m *corev1.ConfigMap) { info(m) }, nil); err != nil {
		return nil, fmt.Errorf("watch config map %s: %w", clusterInfo, err)
	}
	return s, nil
}

// Warm keeps the caches of tokens and of the config map.
func (s *Signer) Warm(ctx context.Context) error { return control.WarmAll(ctx, s.tokens, s.info) }

// Run works until ctx ends.
func (s *Signer) Run(ctx context.Context) error { return s.loop.Run(ctx) }

func (s *Signer) sync(ctx context.Context, _ string) error {
	info, ok := s.info.Get(metav1.NamespacePublic, clusterInfo)
	if !ok {
		return nil
	}
	if !s.tokens.Informer.HasSynced() {
		return &control.RetryAfter{After: time.Second, Reason: "the tokens are not known yet"}
	}
	data, next, err := signatures(info.Data, s.tokens.All(), s.now())
	if err != nil {
		return err
	}
	if !next.IsZero() {
		s.loop.EnqueueAfter(clusterInfo, next.Sub(s.now()))
	}
	if maps.Equal(data, info.Data) {
		return nil
	}
	m := info.DeepCopy()
	m.Data = data
	if _, err := s.client.CoreV1().ConfigMaps(m.Namespace).Update(ctx, m, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("sign config map %s: %w", clusterInfo, err)
	}
	return nil
}

// signatures gives data with one signature for each token that signs now, and when the
// next of those ends. Without a kubeconfig there is nothing to sign.
func signatures(data map[string]string, all []*corev1.Secret, now time.Time) (map[string]string, time.Time, error) {
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, signaturesKey) })
	content, ok := data[kubeconfigKey]
	var next time.Time
	if !ok {
		return out, next, nil
	}
	for _, t := range all {
		id, secret, ok := signing(t, now)
		if !ok {
			continue
		}
		signature, err := sign(content, id, secret)
		if err != nil {
			return nil, next, err
		}
		out[signaturesKey+id] = signature
		if end, ends := expiry(t); ends && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return out, next, nil
}
