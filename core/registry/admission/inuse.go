package admission

import (
	"context"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

// protections are the finalizers that keep what is in use from being deleted.
// The controllers plugin takes them off when it no longer is.
var protections = map[schema.GroupResource]string{
	corev1.Resource("persistentvolumeclaims"):                         "kubernetes.io/pvc-protection",
	corev1.Resource("persistentvolumes"):                              "kubernetes.io/pv-protection",
	{Group: storagev1.GroupName, Resource: "volumeattributesclasses"}: "kubernetes.io/vac-protection",
}

// inUse puts the finalizers on.
type inUse struct{ *admission.Handler }

var _ admission.MutationInterface = (*inUse)(nil)

func newInUse(io.Reader) (admission.Interface, error) {
	return &inUse{admission.NewHandler(admission.Create)}, nil
}

// Admit implements admission.MutationInterface.
func (*inUse) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	finalizer, ok := protections[a.GetResource().GroupResource()]
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	if o, ok := a.GetObject().(metav1.Object); ok && !slices.Contains(o.GetFinalizers(), finalizer) {
		o.SetFinalizers(append(o.GetFinalizers(), finalizer))
	}
	return nil
}
