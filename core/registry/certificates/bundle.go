package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// maxBundleSize is how many bytes of PEM a bundle may have.
const maxBundleSize = 1 << 20

// bundle names the kind for short.
type bundle = certificatesv1.ClusterTrustBundle

var bundles = &resource.Definition[*bundle]{
	GroupVersion: certificatesv1.SchemeGroupVersion, Kind: "ClusterTrustBundle", Plural: "clustertrustbundles",
	Singular: "clustertrustbundle", ClusterScoped: true,
	New:     func() *bundle { return &bundle{} },
	NewList: func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} },
	Name: func(name string, prefix bool) []string { // with a signer, the name begins with the signer's, in another form
		if i := strings.LastIndex(name, ":"); i >= 0 {
			name = name[i+1:]
		}
		return apivalidation.NameIsDNSSubdomain(name, prefix)
	},
	Validate: validateBundle,
	ValidateUpdate: func(b, old *bundle) field.ErrorList {
		return apivalidation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))
	},
	Labels:  []string{"spec.signerName"},
	Fields:  func(b *bundle) fields.Set { return fields.Set{"spec.signerName": b.Spec.SignerName} },
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("SignerName", "string", "Whose certificates it vouches for.")},
	Row: func(b *bundle) []any {
		signer := "<none>"
		if b.Spec.SignerName != "" {
			signer = b.Spec.SignerName
		}
		return []any{b.Name, signer}
	},
}

func validateBundle(b *bundle) field.ErrorList {
	name, spec := field.NewPath("metadata", "name"), field.NewPath("spec")
	var errs field.ErrorList
	if signer := b.Spec.SignerName; signer != "" {
		prefix := strings.ReplaceAll(signer, "/", ":") + ":"
		if !strings.HasPrefix(b.Name, prefix) {
			errs = append(errs, field.Invalid(name, b.Name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)))
		}
		errs = append(errs, podspec.ValidateSignerName(signer, spec.Child("signerName"))...)
	} else if strings.Contains(b.Name, ":") {
		errs = append(errs, field.Invalid(name, b.Name, "ClusterTrustBundle without signer name must not have \":\" in its name"))
	}
	at := spec.Child("trustBundle")
	if len(b.Spec.TrustBundle) > maxBundleSize {
		return append(errs, field.TooLong(at, "", maxBundleSize))
	}
	return append(errs, validateAnchors(b.Spec.TrustBundle, at)...)
}

// validateAnchors checks that the text is of certificates, each once.
func validateAnchors(text string, at *field.Path) field.ErrorList {
	const omitted = "<value omitted>"
	seen := map[string]int{}
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return field.ErrorList{field.Invalid(at, omitted, fmt.Sprintf("entry %d has bad block type: %v", n, block.Type))}
		}
		if len(block.Headers) != 0 {
			return field.ErrorList{field.Invalid(at, omitted, fmt.Sprintf("entry %d has PEM block headers", n))}
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return field.ErrorList{field.Invalid(at, omitted, fmt.Sprintf("entry %d does not parse as X.509", n))}
		}
		if first, ok := seen[string(certificate.Raw)]; ok {
			return field.ErrorList{field.Invalid(at, omitted, fmt.Sprintf("duplicate trust anchor (indices %d and %d)", first, n))}
		}
		seen[string(certificate.Raw)] = n
	}
	if len(seen) == 0 {
		return field.ErrorList{field.Invalid(at, omitted, "at least one trust anchor must be provided")}
	}
	return nil
}
