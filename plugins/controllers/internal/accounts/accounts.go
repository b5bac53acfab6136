// Package accounts gives each namespace what every pod in it counts on: the
// ServiceAccount "default", and the ConfigMap "kube-root-ca.crt" with the
// certificate authority of the API server. Both are put back when deleted, the
// ConfigMap also when changed.
package accounts

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	defaultAccount = "default"
	rootCAName     = "kube-root-ca.crt"
	rootCAKey      = "ca.crt"
	// descriptionAnnotation and its text are upstream's.
	descriptionAnnotation = "kubernetes.io/description"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Accounts is the serviceaccount controller. Keys are names of namespaces.
type Accounts struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
	loop       *control.Loop
}

// NewAccounts registers the controller's handlers; Run does the work.
func NewAccounts(c *control.Context) (*Accounts, error) {
	core := c.Informers.Core().V1()
	a := &Accounts{client: c.Client, namespaces: core.Namespaces().Lister(), accounts: core.ServiceAccounts().Lister()}
	a.loop = control.NewLoop(c, "serviceaccount", 2, a.sync)
	if err := handleNamespaces(c, a.loop); err != nil {
		return nil, err
	}
	_, err := control.Handle(core.ServiceAccounts().Informer(), nil, nil, func(sa *corev1.ServiceAccount) {
		if sa.Name == defaultAccount {
			a.loop.EnqueueKey(sa.Namespace)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("watch service accounts: %w", err)
	}
	return a, nil
}

func handleNamespaces(c *control.Context, loop *control.Loop) error {
	add := func(ns *corev1.Namespace) { loop.EnqueueKey(ns.Name) }
	if _, err := control.Handle(c.Informers.Core().V1().Namespaces().Informer(), add, func(_, ns *corev1.Namespace) { add(ns) }, nil); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	return nil
}

// Run works until ctx ends.
func (a *Accounts) Run(ctx context.Context) error { return a.loop.Run(ctx) }

func (a *Accounts) sync(ctx context.Context, name string) error {
	if ok, err := isActive(a.namespaces, name); !ok {
		return err
	}
	if _, err := a.accounts.ServiceAccounts(name).Get(defaultAccount); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultAccount, Namespace: name}}
	_, err := a.client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{})
	return ignoreRaces("create service account of namespace "+name, err)
}

func isActive(l corelisters.NamespaceLister, name string) (bool, error) {
	ns, err := l.Get(name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get namespace %s: %w", name, err)
	}
	return ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating, nil
}

// ignoreRaces takes it as success that the object is there already or that the
// namespace is going.
func ignoreRaces(what string, err error) error {
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// RootCA is the publisher of kube-root-ca.crt. Keys are names of namespaces.
type RootCA struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	ca         string
	loop       *control.Loop
}

// NewRootCA registers the controller's handlers; Run does the work.
func NewRootCA(c *control.Context) (*RootCA, error) {
	core := c.Informers.Core().V1()
	// Only the ConfigMaps of that one name: others' contents may be large.
	inf := c.Informers.InformerFor(&corev1.ConfigMap{}, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return coreinformers.NewFilteredConfigMapInformer(client, metav1.NamespaceAll, resync,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, rootCAName).String()
			})
	})
	r := &RootCA{client: c.Client, namespaces: core.Namespaces().Lister(), maps: corelisters.NewConfigMapLister(inf.GetIndexer()), ca: string(c.CA)}
	r.loop = control.NewLoop(c, "rootca", 2, r.sync)
	if err := handleNamespaces(c, r.loop); err != nil {
		return nil, err
	}
	ours := func(cm *corev1.ConfigMap) {
		if cm.Name == rootCAName {
			r.loop.EnqueueKey(cm.Namespace)
		}
	}
	if _, err := control.Handle(inf, nil, func(_, cm *corev1.ConfigMap) { ours(cm) }, ours); err != nil {
		return nil, fmt.Errorf("watch config maps: %w", err)
	}
	return r, nil
}

// Run works until ctx ends.
func (r *RootCA) Run(ctx context.Context) error { return r.loop.Run(ctx) }

func (r *RootCA) sync(ctx context.Context, name string) error {
	if ok, err := isActive(r.namespaces, name); !ok {
		return err
	}
	data := map[string]string{rootCAKey: r.ca}
	cur, err := r.maps.ConfigMaps(name).Get(rootCAName)
	if apierrors.IsNotFound(err) {
		cm := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: rootCAName, Namespace: name, Annotations: map[string]string{descriptionAnnotation: rootCADescription}},
			Data:       data,
		}
		_, err = r.client.CoreV1().ConfigMaps(name).Create(ctx, cm, metav1.CreateOptions{})
		return ignoreRaces("create "+rootCAName+" in namespace "+name, err)
	}
	if err != nil {
		return fmt.Errorf("get %s of namespace %s: %w", rootCAName, name, err)
	}
	if equality.Semantic.DeepEqual(cur.Data, data) && cur.Annotations[descriptionAnnotation] != "" {
		return nil
	}
	next := cur.DeepCopy()
	next.Data = data
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[descriptionAnnotation] = rootCADescription
	if _, err := r.client.CoreV1().ConfigMaps(name).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("restore %s in namespace %s: %w", rootCAName, name, err)
	}
	return nil
}
