package admission

import (
	"context"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// claimResize lets claims grow if they are bound and their class allows it.
type claimResize struct{ asker }

var _ admission.ValidationInterface = (*claimResize)(nil)

func newClaimResize(io.Reader) (admission.Interface, error) {
	return &claimResize{newAsker(PersistentVolumeClaimResizeName, admission.Update)}, nil
}

// Validate implements admission.ValidationInterface.
func (r *claimResize) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, ok2 := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !ok2 || a.GetSubresource() != "" {
		return nil
	}
	wanted, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if wanted.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, fmt.Errorf("only bound persistent volume claims can be expanded"))
	}
	name := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if name == "" && claim.Spec.StorageClassName != nil {
		name = *claim.Spec.StorageClassName
	}
	if name != "" {
		class, err := r.client.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
		if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
