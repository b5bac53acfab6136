package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// How long the certificates of pods are good for, in seconds: by default, at
// least, at most, and at most from Kubernetes' own signers.
const (
	defaultPodSeconds = 24 * 60 * 60
	minPodSeconds     = 60 * 60
	maxPodSeconds     = 91 * 24 * 60 * 60
	maxOwnSeconds     = 24 * 60 * 60
	// maxRequestSize bounds the request, maxChainSize the certificates, in bytes.
	maxRequestSize = 10 << 10
	maxChainSize   = 100 << 10
)

// podRequest names the kind for short.
type podRequest = certificatesv1.PodCertificateRequest

var podRequests = &resource.Definition[*podRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "PodCertificateRequest", Plural: "podcertificaterequests",
	Singular: "podcertificaterequest",
	New:      func() *podRequest { return &podRequest{} },
	NewList:  func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} },
	Default: func(r *podRequest) {
		if r.Spec.MaxExpirationSeconds == nil {
			r.Spec.MaxExpirationSeconds = new(int32(defaultPodSeconds))
		}
	},
	Status:        func(r *podRequest) any { return &r.Status },
	PrepareStatus: func(_ context.Context, r, old *podRequest) { r.Spec = old.Spec },
	Validate:      validatePodRequest,
	ValidateUpdate: func(r, old *podRequest) field.ErrorList {
		return apivalidation.ValidateImmutableField(r.Spec, old.Spec, field.NewPath("spec"))
	},
	ValidateStatus: validatePodRequestStatus,
	Labels:         []string{"spec.signerName", "spec.podName", "spec.nodeName"},
	Fields: func(r *podRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("PodName", "string", "The pod that asks."),
		resource.Column("ServiceAccountName", "string", "The pod's service account."),
		resource.Column("NodeName", "string", "The pod's node."),
		resource.Column("SignerName", "string", "Who is asked to sign."),
		resource.Column("State", "string", "What has become of it."),
		resource.AgeColumn,
	},
	Row: func(r *podRequest) []any {
		state := "Pending"
		for _, c := range r.Status.Conditions {
			if c.Status == metav1.ConditionTrue {
				state = c.Type
			}
		}
		return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, resource.Age(r)}
	},
}

func validatePodRequest(r *podRequest) field.ErrorList {
	spec := field.NewPath("spec")
	errs := podspec.ValidateSignerName(r.Spec.SignerName, spec.Child("signerName"))
	for _, f := range []struct {
		name, value string
		uid         bool
	}{
		{"podName", r.Spec.PodName, false}, {"podUID", string(r.Spec.PodUID), true},
		{"serviceAccountName", r.Spec.ServiceAccountName, false}, {"serviceAccountUID", string(r.Spec.ServiceAccountUID), true},
		{"nodeName", string(r.Spec.NodeName), false}, {"nodeUID", string(r.Spec.NodeUID), true},
	} {
		const maxUID = 128
		switch {
		case f.value == "":
			errs = append(errs, field.Required(spec.Child(f.name), ""))
		case f.uid && len(f.value) > maxUID:
			errs = append(errs, field.TooLong(spec.Child(f.name), "", maxUID))
		case !f.uid:
			for _, msg := range apivalidation.NameIsDNSSubdomain(f.value, false) {
				errs = append(errs, field.Invalid(spec.Child(f.name), f.value, msg))
			}
		}
	}
	at, highest := spec.Child("maxExpirationSeconds"), int32(maxPodSeconds)
	if strings.HasPrefix(r.Spec.SignerName, "kubernetes.io/") {
		highest = maxOwnSeconds
	}
	if s := *r.Spec.MaxExpirationSeconds; s < minPodSeconds || s > highest {
		errs = append(errs, field.Invalid(at, s, "must be in the range ["+(minPodSeconds*time.Second).String()+", "+(time.Duration(highest)*time.Second).String()+"]"))
	}
	errs = append(errs, apivalidation.ValidateAnnotations(r.Spec.UnverifiedUserAnnotations, spec.Child("unverifiedUserAnnotations"))...)
	return append(errs, validateStub(r.Spec.StubPKCS10Request, spec.Child("stubPKCS10Request"))...)
}

// validateStub checks that the request proves possession of its key; the rest
// of it says nothing, and stays empty.
func validateStub(der []byte, at *field.Path) field.ErrorList {
	const omitted = "<value omitted>"
	if len(der) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(der) > maxRequestSize {
		return field.ErrorList{field.TooLong(at, "", maxRequestSize)}
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return field.ErrorList{field.Invalid(at, omitted, "must be a DER-serialized PKCS#10 certificate signing request: "+err.Error())}
	}
	if err := request.CheckSignature(); err != nil {
		return field.ErrorList{field.Invalid(at, omitted, "must be signed by its own key: "+err.Error())}
	}
	return nil
}

func validatePodRequestStatus(r, old *podRequest) field.ErrorList {
	at := field.NewPath("status")
	conditions := at.Child("conditions")
	errs := metav1validation.ValidateConditions(r.Status.Conditions, conditions)
	verdicts := 0
	for i, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
			certificatesv1.PodCertificateRequestConditionTypeFailed:
			verdicts++
			if c.Status != metav1.ConditionTrue {
				errs = append(errs, field.NotSupported(conditions.Index(i).Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
			}
		default:
			errs = append(errs, field.NotSupported(conditions.Index(i).Child("type"), c.Type, []string{
				certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed,
				certificatesv1.PodCertificateRequestConditionTypeIssued}))
		}
		if verdicts > 1 {
			errs = append(errs, field.Invalid(conditions, omittedConditions, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
	}
	issued := false
	for _, c := range r.Status.Conditions {
		issued = issued || c.Type == certificatesv1.PodCertificateRequestConditionTypeIssued
	}
	if decided(old) && !apiequality.Semantic.DeepEqual(r.Status, old.Status) {
		errs = append(errs, field.Invalid(at, omittedConditions, "immutable after PodCertificateRequest has been issued, denied, or failed"))
	}
	return append(errs, validateIssued(&r.Status, issued, at)...)
}

const omittedConditions = "<value omitted>"

func decided(r *podRequest) bool { return len(r.Status.Conditions) > 0 }

// validateIssued checks that the certificates and their times come with the verdict that they are issued, and only then.
func validateIssued(s *certificatesv1.PodCertificateRequestStatus, issued bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	need := func(given bool, name string) {
		switch {
		case issued && !given:
			errs = append(errs, field.Required(at.Child(name), "must be present and consistent with the issued certificate"))
		case !issued && given:
			errs = append(errs, field.Forbidden(at.Child(name), "may only be set together with the condition \"Issued\""))
		}
	}
	need(s.CertificateChain != "", "certificateChain")
	need(s.NotBefore != nil, "notBefore")
	need(s.BeginRefreshAt != nil, "beginRefreshAt")
	need(s.NotAfter != nil, "notAfter")
	if len(errs) > 0 || !issued {
		return errs
	}
	chain := at.Child("certificateChain")
	if len(s.CertificateChain) > maxChainSize {
		return field.ErrorList{field.TooLong(chain, "", maxChainSize)}
	}
	block, _ := pem.Decode([]byte(s.CertificateChain))
	if block == nil || block.Type != "CERTIFICATE" {
		return field.ErrorList{field.Invalid(chain, omittedConditions, "must contain at least one PEM block of type CERTIFICATE")}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return field.ErrorList{field.Invalid(chain, omittedConditions, "leaf certificate does not parse as valid X.509")}
	}
	if !s.NotBefore.Time.Equal(leaf.NotBefore) {
		errs = append(errs, field.Invalid(at.Child("notBefore"), s.NotBefore, "must be set to the NotBefore time encoded in the leaf certificate"))
	}
	if !s.NotAfter.Time.Equal(leaf.NotAfter) {
		errs = append(errs, field.Invalid(at.Child("notAfter"), s.NotAfter, "must be set to the NotAfter time encoded in the leaf certificate"))
	}
	if t := s.BeginRefreshAt.Time; t.Before(leaf.NotBefore) || t.After(leaf.NotAfter) {
		errs = append(errs, field.Invalid(at.Child("beginRefreshAt"), s.BeginRefreshAt, "must be between notBefore and notAfter"))
	}
	return errs
}
