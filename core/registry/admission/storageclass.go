package admission

import (
	"context"
	"io"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

const (
	defaultStorageAnnotation     = "storageclass.kubernetes.io/is-default-class"
	defaultStorageAnnotationBeta = "storageclass.beta.kubernetes.io/is-default-class"
)

// defaultStorageClass gives claims that name no class the default one, if there is one.
type defaultStorageClass struct{ asker }

var _ admission.MutationInterface = (*defaultStorageClass)(nil)

func newDefaultStorageClass(io.Reader) (admission.Interface, error) {
	return &defaultStorageClass{newAsker(DefaultStorageClassName, admission.Create)}, nil
}

// Admit implements admission.MutationInterface.
func (d *defaultStorageClass) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok || a.GetSubresource() != "" || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return nil
	}
	list, err := d.client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	var found *storagev1.StorageClass
	for i := range list.Items {
		c := &list.Items[i]
		if c.Annotations[defaultStorageAnnotation] != "true" && c.Annotations[defaultStorageAnnotationBeta] != "true" {
			continue
		}
		if found == nil || newer(c, found) {
			found = c
		}
	}
	if found != nil {
		claim.Spec.StorageClassName = &found.Name
	}
	return nil
}

// newer says whether x, of two defaults, is the one to take: the newest, and of
// two of one second the first by name.
func newer(x, y metav1.Object) bool {
	if t, u := x.GetCreationTimestamp(), y.GetCreationTimestamp(); !t.Equal(&u) {
		return u.Before(&t)
	}
	return x.GetName() < y.GetName()
}
