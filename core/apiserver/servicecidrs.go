package apiserver

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultServiceCIDR is the ServiceCIDR of the ranges that the server was started with.
const defaultServiceCIDR = "kubernetes"

// ensureServiceCIDR writes it. When the ranges of a cluster have been changed,
// the object of the old ones stays as it is, as with kube-apiserver, for the
// services that have addresses of them.
func (s *Server) ensureServiceCIDR(ctx context.Context) error {
	ranges := s.client.NetworkingV1().ServiceCIDRs()
	want := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: defaultServiceCIDR}}
	for _, p := range s.config.ServiceCIDRs {
		want.Spec.CIDRs = append(want.Spec.CIDRs, p.String())
	}
	got, err := ranges.Get(ctx, defaultServiceCIDR, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = ranges.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
	} else if err == nil && !equality.Semantic.DeepEqual(got.Spec.CIDRs, want.Spec.CIDRs) {
		s.config.Log.Warn("The ServiceCIDR of another range of services is there; addresses are given out from both",
			"serviceCidr", defaultServiceCIDR, "stored", got.Spec.CIDRs, "configured", want.Spec.CIDRs)
	}
	if err != nil {
		return fmt.Errorf("ensure service range %s: %w", defaultServiceCIDR, err)
	}
	return nil
}
