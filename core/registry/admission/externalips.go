package admission

import (
	"context"
	"errors"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// externalIPs refuses new external addresses of services: whoever may set them
// can take traffic meant for others.
type externalIPs struct{ *admission.Handler }

var _ admission.ValidationInterface = (*externalIPs)(nil)

func newExternalIPs(io.Reader) (admission.Interface, error) {
	return &externalIPs{admission.NewHandler(admission.Create, admission.Update)}, nil
}

// Validate implements admission.ValidationInterface.
func (*externalIPs) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	service, ok := a.GetObject().(*corev1.Service)
	if !ok || a.GetSubresource() != "" {
		return nil
	}
	var had []string
	if old, ok := a.GetOldObject().(*corev1.Service); ok && old != nil {
		had = old.Spec.ExternalIPs
	}
	for _, ip := range service.Spec.ExternalIPs {
		if !slices.Contains(had, ip) {
			return admission.NewForbidden(a, errors.New("Use of external IPs is denied by admission control")) //nolint:staticcheck // upstream's wording
		}
	}
	return nil
}
