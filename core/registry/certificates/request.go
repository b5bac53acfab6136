package certificates

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/podspec"
)

// minSeconds is the shortest life that may be asked for.
const minSeconds = 600

// legacySigner signed what older versions of the API asked for.
const legacySigner = "kubernetes.io/legacy-unknown"

// usages are sorted.
var usages = []certificatesv1.KeyUsage{certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
	certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
	certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping}

func validate(r *request) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if err := checkRequest(r.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), r.Spec.Request, err.Error()))
	}
	at := spec.Child("usages")
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	for i, u := range r.Spec.Usages {
		switch {
		case !slices.Contains(usages, u):
			errs = append(errs, field.NotSupported(at.Index(i), u, usages))
		case slices.Index(r.Spec.Usages, u) != i:
			errs = append(errs, field.Duplicate(at.Index(i), u))
		}
	}
	at = spec.Child("signerName")
	if r.Spec.SignerName == legacySigner && r.ResourceVersion == "" {
		errs = append(errs, field.Invalid(at, r.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, podspec.ValidateSignerName(r.Spec.SignerName, at)...)
	}
	if s := r.Spec.ExpirationSeconds; s != nil && *s < minSeconds {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

// checkRequest wants a request that is signed with the key that it names.
func checkRequest(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return r.CheckSignature()
}

func isVerdict(t certificatesv1.RequestConditionType) bool {
	return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
}

func find(list []certificatesv1.CertificateSigningRequestCondition, t certificatesv1.RequestConditionType) int {
	return slices.IndexFunc(list, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

// prepareStatus puts back what only the approval endpoint writes: a verdict that
// was there stays as it was. One that comes or goes is for validation to refuse.
func prepareStatus(_ context.Context, r, old *request) {
	r.Spec = old.Spec
	now := r.Status.Conditions
	for i := range now {
		if was := find(old.Status.Conditions, now[i].Type); was >= 0 && isVerdict(now[i].Type) {
			now[i] = old.Status.Conditions[was]
		}
	}
	setTimes(now, old.Status.Conditions)
}

// setTimes says of each condition since when it holds, where nobody has.
func setTimes(now, was []certificatesv1.CertificateSigningRequestCondition) {
	for i := range now {
		c := &now[i]
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.Now()
			if j := find(was, c.Type); j >= 0 && was[j].Status == c.Status && !was[j].LastTransitionTime.IsZero() {
				c.LastTransitionTime = was[j].LastTransitionTime
			}
		}
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = metav1.Now()
		}
	}
}

var (
	known    = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
	onlyTrue = []corev1.ConditionStatus{corev1.ConditionTrue}
)

// validateConditions checks the conditions: each type once, a verdict or failure is true, and there is one verdict at most.
func validateConditions(now, was []certificatesv1.CertificateSigningRequestCondition) field.ErrorList {
	at := field.NewPath("status", "conditions")
	var errs field.ErrorList
	verdict := certificatesv1.RequestConditionType("")
	for i, c := range now {
		p, allowed := at.Index(i), known
		if isVerdict(c.Type) || c.Type == certificatesv1.CertificateFailed {
			allowed = onlyTrue
		}
		switch {
		case c.Type == "":
			errs = append(errs, field.Required(p.Child("type"), ""))
		case find(now, c.Type) != i:
			errs = append(errs, field.Duplicate(p.Child("type"), c.Type))
		}
		switch {
		case c.Status == "":
			errs = append(errs, field.Required(p.Child("status"), ""))
		case !slices.Contains(allowed, c.Status):
			errs = append(errs, field.NotSupported(p.Child("status"), c.Status, allowed))
		}
		if !isVerdict(c.Type) {
			continue
		}
		if verdict != "" && verdict != c.Type {
			errs = append(errs, field.Invalid(at, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		verdict = c.Type
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		if find(was, t) >= 0 && find(now, t) < 0 {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
	}
	return errs
}

// validateStatus checks what a signer writes.
func validateStatus(r, old *request) field.ErrorList {
	errs := validateConditions(r.Status.Conditions, old.Status.Conditions)
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		if find(r.Status.Conditions, t) >= 0 && find(old.Status.Conditions, t) < 0 {
			errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	at, now, was := field.NewPath("status", "certificate"), r.Status.Certificate, old.Status.Certificate
	if bytes.Equal(now, was) {
		return errs
	}
	if len(was) > 0 {
		errs = append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
	}
	if len(now) > 0 {
		if err := checkCertificates(now); err != nil {
			errs = append(errs, field.Invalid(at, "<certificate data>", err.Error()))
		}
	}
	return errs
}

// checkCertificates wants certificates in PEM, and nothing else but text around them.
func checkCertificates(text []byte) error {
	for n := 0; ; n++ {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			if n == 0 {
				return fmt.Errorf("must contain at least one CERTIFICATE PEM block")
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return fmt.Errorf("no PEM block headers are permitted")
		}
		certificates, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certificates) == 0 {
			return fmt.Errorf("found CERTIFICATE PEM block containing 0 certificates")
		}
	}
}

// approvalStrategy writes approvals and denials, and nothing else.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

func (approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	r, before := obj.(*request), old.(*request)
	conditions := r.Status.Conditions
	r.Spec, r.Status = before.Spec, *before.Status.DeepCopy()
	r.Status.Conditions = conditions
	setTimes(r.Status.Conditions, before.Status.Conditions)
}

func (approvalStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validateConditions(obj.(*request).Status.Conditions, old.(*request).Status.Conditions)
}

func (approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"certificates.k8s.io/v1": fieldpath.NewSet(
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"))}
}
