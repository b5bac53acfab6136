package admission

import (
	"context"
	"io"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// namespaced is the part of a plugin that looks at the request's namespace.
type namespaced struct {
	asker
	namespaces corelisters.NamespaceLister
}

var _ genericinitializer.WantsExternalKubeInformerFactory = (*namespaced)(nil)

// SetExternalKubeInformerFactory takes the informers.
func (n *namespaced) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	n.namespaces = f.Core().V1().Namespaces().Lister()
	n.SetReadyFunc(f.Core().V1().Namespaces().Informer().HasSynced)
}

// namespace is that of the name, from the cache or else from the API.
func (n *namespaced) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	if ns, err := n.namespaces.Get(name); err == nil {
		return ns, nil
	}
	return n.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
}

// inNamespace says whether the request is on an object in a namespace.
func inNamespace(a admission.Attributes) bool {
	return a.GetNamespace() != "" && a.GetKind().GroupKind() != corev1.SchemeGroupVersion.WithKind("Namespace").GroupKind()
}

// autoProvision makes the namespace of a new object if it is not there.
type autoProvision struct{ namespaced }

var _ admission.MutationInterface = (*autoProvision)(nil)

func newAutoProvision(io.Reader) (admission.Interface, error) {
	return &autoProvision{namespaced{asker: newAsker(NamespaceAutoProvisionName, admission.Create)}}, nil
}

// Admit implements admission.MutationInterface.
func (p *autoProvision) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !inNamespace(a) || a.IsDryRun() {
		return nil
	}
	_, err := p.namespace(ctx, a.GetNamespace())
	if !apierrors.IsNotFound(err) {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.GetNamespace()}}
	if _, err := p.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return admission.NewForbidden(a, err)
	}
	return nil
}

// namespaceExists refuses all on objects in namespaces that are not there.
type namespaceExists struct{ namespaced }

var _ admission.ValidationInterface = (*namespaceExists)(nil)

func newNamespaceExists(io.Reader) (admission.Interface, error) {
	return &namespaceExists{namespaced{asker: newAsker(NamespaceExistsName, admission.Create, admission.Update, admission.Delete)}}, nil
}

// Validate implements admission.ValidationInterface.
func (p *namespaceExists) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !inNamespace(a) {
		return nil
	}
	_, err := p.namespace(ctx, a.GetNamespace())
	if err != nil && !apierrors.IsNotFound(err) {
		return admission.NewForbidden(a, err)
	}
	return err
}
