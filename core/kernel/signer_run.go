package kernel

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// How long requests are kept, as kube-controller-manager does.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// run signs until ctx ends. What fails is tried again when the request changes; who
// asked asks again.
func (s *signer) run(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(s.client, 0)
	try := func(obj any) {
		csr, ok := obj.(*certificatesv1.CertificateSigningRequest)
		if !ok {
			return
		}
		if err := s.handle(ctx, csr); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			s.log.Error("Certificate signing request is not done", "request", csr.Name, "signer", csr.Spec.SignerName, "err", err)
		}
	}
	informer := factory.Certificates().V1().CertificateSigningRequests().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: try, UpdateFunc: func(_, obj any) { try(obj) }}); err != nil {
		s.log.Error("Certificate signing requests are not followed", "err", err)
		return
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	factory.Shutdown()
}

// clean deletes requests that are done with.
func (s *signer) clean(ctx context.Context) {
	requests := s.client.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{})
	if err != nil {
		s.log.Warn("Certificate signing requests are not cleaned up", "err", err)
		return
	}
	now := s.now()
	for i := range list.Items {
		csr := &list.Items[i]
		if now.Before(doneWith(csr)) {
			continue
		}
		if err := requests.Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))}); err != nil && !apierrors.IsNotFound(err) {
			s.log.Warn("Certificate signing request is not cleaned up", "request", csr.Name, "err", err)
		}
	}
}

// doneWith is when a request may be deleted.
func doneWith(csr *certificatesv1.CertificateSigningRequest) time.Time {
	approved, ended := verdict(csr)
	if !ended && (!approved || len(csr.Status.Certificate) == 0) {
		return csr.CreationTimestamp.Add(keepPending)
	}
	last := csr.CreationTimestamp.Time
	for _, c := range csr.Status.Conditions {
		if c.LastUpdateTime.After(last) {
			last = c.LastUpdateTime.Time
		}
	}
	return last.Add(keepDecided)
}
