// Package certificates describes the kinds of the group certificates.k8s.io/v1:
// bundles of trust, and requests of pods and of everybody for certificates. Who asks is written down by the server; who
// approves and who signs are subresources with rights of their own.
package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of the group.
var Kinds = []resource.Kind{requests, bundles, podRequests}

// request names the kind for short.
type request = certificatesv1.CertificateSigningRequest

var requests = &resource.Definition[*request]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "CertificateSigningRequest", Plural: "certificatesigningrequests",
	Singular: "certificatesigningrequest", ShortNames: []string{"csr"}, ClusterScoped: true,
	New:     func() *request { return &request{} },
	NewList: func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },
	Default: func(r *request) {
		for i := range r.Status.Conditions {
			if r.Status.Conditions[i].Status == "" {
				r.Status.Conditions[i].Status = corev1.ConditionTrue
			}
		}
	},
	Status:        func(r *request) any { return &r.Status },
	PrepareCreate: signWithUser,
	PrepareUpdate: func(_ context.Context, r, old *request) { r.Spec = old.Spec },
	PrepareStatus: func(_ context.Context, r, old *request) {
		r.Spec = old.Spec
		r.Status.Conditions = verdicts(r.Status.Conditions, old.Status.Conditions)
	},
	Validate: validate,
	Labels:   []string{"spec.signerName"},
	Fields:   func(r *request) fields.Set { return fields.Set{"spec.signerName": r.Spec.SignerName} },
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn, resource.AgeColumn,
		resource.Column("SignerName", "string", "Who is asked to sign."),
		resource.Column("Requestor", "string", "Who asks."),
		resource.Column("RequestedDuration", "string", "For how long."),
		resource.Column("Condition", "string", "What has become of it."),
	},
	Row: func(r *request) []any {
		text := "<none>"
		if s := r.Spec.ExpirationSeconds; s != nil {
			text = duration.HumanDuration(time.Duration(*s) * time.Second)
		}
		return []any{r.Name, resource.Age(r), r.Spec.SignerName, r.Spec.Username, text, condition(r)}
	},
	Subresources: func(_ *resource.Env, s *resource.Store) map[string]rest.Storage {
		return map[string]rest.Storage{"approval": resource.NewStatusREST(s, approvalStrategy{s.UpdateStrategy})}
	},
}

// signWithUser writes down who asks.
func signWithUser(ctx context.Context, r *request) {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return
	}
	r.Spec.Username, r.Spec.UID, r.Spec.Groups, r.Spec.Extra = u.GetName(), u.GetUID(), u.GetGroups(), nil
	for k, v := range u.GetExtra() {
		if r.Spec.Extra == nil {
			r.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		r.Spec.Extra[k] = v
	}
}

// verdicts puts back approvals and denials, which the status endpoint does not write.
func verdicts(now, was []certificatesv1.CertificateSigningRequestCondition) []certificatesv1.CertificateSigningRequestCondition {
	isVerdict := func(t certificatesv1.RequestConditionType) bool {
		return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
	}
	var kept []certificatesv1.CertificateSigningRequestCondition
	for _, c := range was {
		if isVerdict(c.Type) {
			kept = append(kept, c)
		}
	}
	for _, c := range now {
		if !isVerdict(c.Type) {
			kept = append(kept, c)
		}
	}
	return kept
}

func validate(r *request) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		errs = append(errs, field.Invalid(spec.Child("request"), r.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if _, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), r.Spec.Request, err.Error()))
	}
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(spec.Child("usages"), ""))
	}
	if domain, path, ok := strings.Cut(r.Spec.SignerName, "/"); !ok || domain == "" || path == "" {
		errs = append(errs, field.Invalid(spec.Child("signerName"), r.Spec.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'"))
	}
	if s := r.Spec.ExpirationSeconds; s != nil && *s < 600 {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

func condition(r *request) string {
	var approved, denied, failed bool
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			denied = true
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	text := "Pending"
	switch {
	case denied:
		text = "Denied"
	case approved:
		text = "Approved"
	}
	if failed {
		text += ",Failed"
	}
	if len(r.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}

// approvalStrategy writes approvals and denials, and nothing else.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

func (approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	r, before := obj.(*request), old.(*request)
	conditions := r.Status.Conditions
	r.Spec, r.Status = before.Spec, *before.Status.DeepCopy()
	r.Status.Conditions = conditions
	for i := range r.Status.Conditions {
		if c := &r.Status.Conditions[i]; c.LastTransitionTime.IsZero() {
			c.LastTransitionTime, c.LastUpdateTime = metav1.Now(), metav1.Now()
		}
	}
}

func (approvalStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	at := field.NewPath("status", "conditions")
	count := map[certificatesv1.RequestConditionType]int{}
	for _, c := range obj.(*request).Status.Conditions {
		count[c.Type]++
	}
	var errs field.ErrorList
	if count[certificatesv1.CertificateApproved] > 0 && count[certificatesv1.CertificateDenied] > 0 {
		errs = append(errs, field.Invalid(at, certificatesv1.CertificateApproved, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, c := range old.(*request).Status.Conditions {
		if count[c.Type] == 0 {
			errs = append(errs, field.Forbidden(at, "updates may not remove a condition of type "+string(c.Type)))
		}
	}
	return errs
}

func (approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"certificates.k8s.io/v1": fieldpath.NewSet(
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"))}
}
