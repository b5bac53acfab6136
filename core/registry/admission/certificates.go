package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signers asks whether a user may do something in the name of a signer: a verb
// on the resource signers, by the signer's name or by that of its whole domain.
type signers struct {
	*admission.Handler
	name  string
	authz authorizer.Authorizer
}

var _ genericinitializer.WantsAuthorizer = (*signers)(nil)

// SetAuthorizer takes the authorizer.
func (s *signers) SetAuthorizer(a authorizer.Authorizer) { s.authz = a }

// ValidateInitialization checks that the authorizer has been handed in.
func (s *signers) ValidateInitialization() error {
	if s.authz == nil {
		return fmt.Errorf("admission plugin %s needs an authorizer", s.name)
	}
	return nil
}

func (s *signers) may(ctx context.Context, u user.Info, verb, signer string) bool {
	names := []string{signer}
	if domain, _, ok := strings.Cut(signer, "/"); ok {
		names = append(names, domain+"/*")
	}
	for _, name := range names {
		decision, _, err := s.authz.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// request gives the signing requests of a call on one of their subresources.
func request(a admission.Attributes, subresource string) (now, old *certificatesv1.CertificateSigningRequest, ok bool) {
	if a.GetSubresource() != subresource {
		return nil, nil, false
	}
	now, ok = a.GetObject().(*certificatesv1.CertificateSigningRequest)
	old, _ = a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	return now, old, ok
}

// approval lets those approve or deny who may approve for the signer.
type approval struct{ signers }

var _ admission.ValidationInterface = (*approval)(nil)

func newApproval(io.Reader) (admission.Interface, error) {
	return &approval{signers{Handler: admission.NewHandler(admission.Update), name: CertificateApprovalName}}, nil
}

// Validate implements admission.ValidationInterface.
func (p *approval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	_, old, ok := request(a, "approval")
	if !ok || old == nil {
		return nil
	}
	if !p.may(ctx, a.GetUserInfo(), "approve", old.Spec.SignerName) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// signing lets those write certificates who may sign for the signer.
type signing struct{ signers }

var _ admission.ValidationInterface = (*signing)(nil)

func newSigning(io.Reader) (admission.Interface, error) {
	return &signing{signers{Handler: admission.NewHandler(admission.Update), name: CertificateSigningName}}, nil
}

// Validate implements admission.ValidationInterface.
func (p *signing) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	now, old, ok := request(a, "status")
	if !ok || old == nil {
		return nil
	}
	if slices.Equal(now.Status.Certificate, old.Status.Certificate) && apiequality.Semantic.DeepEqual(now.Status.Conditions, old.Status.Conditions) {
		return nil
	}
	if !p.may(ctx, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// subjectRestriction keeps requests for client certificates out of the group
// that may do everything.
type subjectRestriction struct{ *admission.Handler }

var _ admission.ValidationInterface = (*subjectRestriction)(nil)

func newSubjectRestriction(io.Reader) (admission.Interface, error) {
	return &subjectRestriction{admission.NewHandler(admission.Create)}, nil
}

// Validate implements admission.ValidationInterface.
func (*subjectRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	now, _, ok := request(a, "")
	if !ok || now.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(now.Spec.Request)
	if block == nil {
		return nil // validation says so
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", now.Spec.SignerName, user.SystemPrivilegedGroup))
	}
	return nil
}

// attest lets those write trust bundles who may attest for the signer.
type attest struct{ signers }

var _ admission.ValidationInterface = (*attest)(nil)

func newAttest(io.Reader) (admission.Interface, error) {
	return &attest{signers{Handler: admission.NewHandler(admission.Create, admission.Update), name: ClusterTrustBundleAttestName}}, nil
}

// Validate implements admission.ValidationInterface.
func (p *attest) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var signer string
	switch b := a.GetObject().(type) {
	case *certificatesv1.ClusterTrustBundle:
		signer = b.Spec.SignerName
	case *certificatesv1beta1.ClusterTrustBundle:
		signer = b.Spec.SignerName
	}
	if signer == "" || a.GetSubresource() != "" {
		return nil
	}
	if !p.may(ctx, a.GetUserInfo(), "attest", signer) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", signer))
	}
	return nil
}
