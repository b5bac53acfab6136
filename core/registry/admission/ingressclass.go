package admission

import (
	"context"
	"io"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// ingressClassAnnotation names the class in the manner of old.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// defaultIngressClass gives ingresses that name no class the default one, if there is one.
type defaultIngressClass struct{ asker }

var _ admission.MutationInterface = (*defaultIngressClass)(nil)

func newDefaultIngressClass(io.Reader) (admission.Interface, error) {
	return &defaultIngressClass{newAsker(DefaultIngressClassName, admission.Create)}, nil
}

// Admit implements admission.MutationInterface.
func (d *defaultIngressClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok || a.GetSubresource() != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, ok := ingress.Annotations[ingressClassAnnotation]; ok {
		return nil
	}
	list, err := d.client.NetworkingV1().IngressClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	var found *networkingv1.IngressClass
	for i := range list.Items {
		c := &list.Items[i]
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" && (found == nil || newer(c, found)) {
			found = c
		}
	}
	if found != nil {
		ingress.Spec.IngressClassName = &found.Name
	}
	return nil
}
