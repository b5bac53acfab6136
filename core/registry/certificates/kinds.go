// Package certificates describes the kinds of the group certificates.k8s.io/v1:
// bundles of trust, and requests of pods and of everybody for certificates. Who asks is written down by the server; who
// approves and who signs are subresources with rights of their own.
package certificates

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

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
	// Any name that can be a part of a path.
	Name:           func(string, bool) []string { return nil },
	Status:         func(r *request) any { return &r.Status },
	PrepareCreate:  signWithUser,
	PrepareUpdate:  func(_ context.Context, r, old *request) { r.Spec = old.Spec },
	PrepareStatus:  prepareStatus,
	ValidateStatus: validateStatus,
	Validate:       validate,
	Labels:         []string{"spec.signerName"},
	Fields:         func(r *request) fields.Set { return fields.Set{"spec.signerName": r.Spec.SignerName} },
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
