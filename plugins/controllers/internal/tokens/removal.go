package tokens

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// byAccount indexes secrets by namespace/name of their account.
const byAccount = "account"

// secrets are an informer of the secrets with tokens alone.
func secrets(c *control.Context) *control.Part[*corev1.Secret] {
	return control.NewPart[*corev1.Secret](c, metav1.NamespaceAll, fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)),
		func(f informers.SharedInformerFactory) cache.SharedIndexInformer {
			return f.Core().V1().Secrets().Informer()
		})
}

// Removal is the serviceaccounttoken controller. Keys are namespace/name of accounts.
type Removal struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	secrets  *control.Part[*corev1.Secret]
	loop     *control.Loop
}

// NewRemoval registers the controller's handlers; Run does the work.
func NewRemoval(c *control.Context) (*Removal, error) {
	accounts := c.Informers.Core().V1().ServiceAccounts()
	r := &Removal{client: c.Client, accounts: accounts.Lister(), secrets: secrets(c)}
	r.loop = control.NewLoop(c, "serviceaccounttoken", 1, r.sync)
	account := func(obj any) ([]string, error) {
		if s, ok := obj.(*corev1.Secret); ok {
			return []string{accountKey(s)}, nil
		}
		return nil, nil
	}
	if err := r.secrets.Informer.AddIndexers(cache.Indexers{byAccount: account}); err != nil {
		return nil, fmt.Errorf("index secrets: %w", err)
	}
	add := func(s *corev1.Secret) { r.loop.EnqueueKey(accountKey(s)) }
	if _, err := control.Handle(r.secrets.Informer, add, func(_, s *corev1.Secret) { add(s) }, nil); err != nil {
		return nil, fmt.Errorf("watch secrets: %w", err)
	}
	if _, err := control.Handle(accounts.Informer(), nil, nil, func(a *corev1.ServiceAccount) { r.loop.Enqueue(a) }); err != nil {
		return nil, fmt.Errorf("watch service accounts: %w", err)
	}
	return r, nil
}

// Warm keeps the cache of secrets.
func (r *Removal) Warm(ctx context.Context) error { return r.secrets.Warm(ctx) }

// Run works until ctx ends.
func (r *Removal) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func accountKey(s *corev1.Secret) string {
	return s.Namespace + "/" + s.Annotations[corev1.ServiceAccountNameKey]
}

// stale says whether the secret is not, or no longer, for the account, which may be nil.
func stale(s *corev1.Secret, account *corev1.ServiceAccount) bool {
	if account == nil {
		return true
	}
	uid := s.Annotations[corev1.ServiceAccountUIDKey]
	return uid != "" && uid != string(account.UID)
}

func (r *Removal) sync(ctx context.Context, key string) error {
	namespace, name := control.SplitKey(key)
	objs, err := r.secrets.Informer.GetIndexer().ByIndex(byAccount, key)
	if err != nil || len(objs) == 0 {
		return err
	}
	account, err := r.accounts.ServiceAccounts(namespace).Get(name)
	if err != nil {
		account = nil
	}
	var live *corev1.ServiceAccount
	asked := false
	for _, obj := range objs {
		s, ok := obj.(*corev1.Secret)
		if !ok || s.DeletionTimestamp != nil || !stale(s, account) {
			continue
		}
		if !asked { // the cache may not know of the account yet
			if live, err = r.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
				live = nil
			} else if err != nil {
				return fmt.Errorf("get service account %s: %w", key, err)
			}
			asked = true
		}
		if !stale(s, live) {
			continue
		}
		if err := remove(ctx, r.client, s); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the secret as it was seen.
func remove(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	err := client.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete secret %s: %w", control.Key(s), err)
	}
	return nil
}
