package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

const (
	nodePrefix = "system:node:"
	nodesGroup = "system:nodes"
	// askAgain is after how long it is asked again whether who was not allowed is by now.
	askAgain = time.Minute
)

// Approver is the csrapproving controller. Keys are names of requests.
type Approver struct {
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	loop     *control.Loop
}

// NewApprover registers the controller's handlers; Run does the work.
func NewApprover(c *control.Context) (*Approver, error) {
	requests := c.Informers.Certificates().V1().CertificateSigningRequests()
	a := &Approver{client: c.Client, requests: requests.Lister()}
	a.loop = control.NewLoop(c, "csrapproving", 1, a.sync)
	add := func(r *certificatesv1.CertificateSigningRequest) {
		if r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && !decided(r) {
			a.loop.Enqueue(r)
		}
	}
	if _, err := control.Handle(requests.Informer(), add, func(_, r *certificatesv1.CertificateSigningRequest) { add(r) }, nil); err != nil {
		return nil, fmt.Errorf("watch certificate signing requests: %w", err)
	}
	return a, nil
}

// Run works until ctx ends.
func (a *Approver) Run(ctx context.Context) error { return a.loop.Run(ctx) }

func (a *Approver) sync(ctx context.Context, name string) error {
	r, err := a.requests.Get(name)
	if apierrors.IsNotFound(err) || err == nil && decided(r) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get certificate signing request %s: %w", name, err)
	}
	of, err := parse(r.Spec.Request)
	if err != nil || kubeletClient(of, r.Spec.Usages) != nil {
		return nil // for people to decide
	}
	subresource, message := "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."
	own := of.Subject.CommonName == r.Spec.Username
	allowed := false
	if own {
		if allowed, err = a.may(ctx, r, "selfnodeclient"); err != nil {
			return err
		}
		if allowed {
			message = "Auto approving self kubelet client certificate after SubjectAccessReview."
		}
	}
	if !allowed {
		if allowed, err = a.may(ctx, r, subresource); err != nil {
			return err
		}
	}
	if !allowed {
		return &control.RetryAfter{After: askAgain, Reason: "request " + name + " is not for its author to make"}
	}
	next := r.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	if _, err := a.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, name, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("approve certificate signing request %s: %w", name, err)
	}
	return nil
}

// may asks whether who made the request may create one of the kind that the subresource
// stands for.
func (a *Approver) may(ctx context.Context, r *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Version: "*", Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create",
		},
	}}
	got, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask for the rights of %s: %w", r.Spec.Username, err)
	}
	return got.Status.Allowed, nil
}

// decided says whether somebody has, or the certificate is there already.
func decided(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
	})
}

func parse(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("there is no PEM block of type CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	return r, r.CheckSignature()
}

// kubeletClient says what keeps the request from being that of a kubelet for its client
// certificate.
func kubeletClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if !slices.Equal(r.Subject.Organization, []string{nodesGroup}) {
		return fmt.Errorf("organization is not %s", nodesGroup)
	}
	if name, ok := strings.CutPrefix(r.Subject.CommonName, nodePrefix); !ok || name == "" {
		return fmt.Errorf("common name does not begin with %s", nodePrefix)
	}
	if len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
		return errors.New("subject alternative names are not for a client")
	}
	for _, needed := range []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth} {
		if !slices.Contains(usages, needed) {
			return fmt.Errorf("usage %q is missing", needed)
		}
	}
	for _, u := range usages {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageClientAuth && u != certificatesv1.UsageKeyEncipherment {
			return fmt.Errorf("usage %q is not for a client", u)
		}
	}
	return nil
}
