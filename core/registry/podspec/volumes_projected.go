package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long the certificates of pods may be good for, in seconds: at least, at
// most, and at most from Kubernetes' own signers.
const (
	minCertificateSeconds = 60 * 60
	maxCertificateSeconds = 91 * 24 * 60 * 60
	maxOwnSeconds         = 24 * 60 * 60
)

var keyTypes = []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"}

// validateBundleProjection checks certificates of a ClusterTrustBundle, or of all that a signer has.
func validateBundleProjection(b *corev1.ClusterTrustBundleProjection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case b.Name != nil && b.SignerName != nil:
		errs = append(errs, field.Invalid(at, *b, "only one of name and signerName may be used"))
	case b.Name != nil:
		name := *b.Name
		if name == "" {
			errs = append(errs, field.Required(at.Child("name"), "must be a valid object name"))
		}
		// What is before the last colon is the signer.
		for _, msg := range apivalidation.NameIsDNSSubdomain(name[strings.LastIndex(name, ":")+1:], false) {
			errs = append(errs, field.Invalid(at.Child("name"), name, "not a valid clustertrustbundlename: "+msg))
		}
		if b.LabelSelector != nil {
			errs = append(errs, field.Invalid(at.Child("labelSelector"), *b.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			errs = append(errs, field.Required(at.Child("signerName"), "must be a valid signer name"))
		}
		errs = append(errs, ValidateSignerName(*b.SignerName, at.Child("signerName"))...)
		errs = append(errs, metav1validation.ValidateLabelSelector(b.LabelSelector, metav1validation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
	default:
		errs = append(errs, field.Required(at, "either name or signerName must be specified"))
	}
	return append(errs, validateItemPath(b.Path, at.Child("path"))...)
}

// validateCertificateProjection checks a key that the kubelet makes, with a certificate that it asks for.
func validateCertificateProjection(c *corev1.PodCertificateProjection, at *field.Path) field.ErrorList {
	errs := ValidateSignerName(c.SignerName, at.Child("signerName"))
	if !slices.Contains(keyTypes, c.KeyType) {
		errs = append(errs, field.NotSupported(at.Child("keyType"), c.KeyType, keyTypes))
	}
	if s := c.MaxExpirationSeconds; s != nil {
		most := int32(maxCertificateSeconds)
		if strings.HasPrefix(c.SignerName, "kubernetes.io/") {
			most = maxOwnSeconds
		}
		p := at.Child("maxExpirationSeconds")
		if *s < minCertificateSeconds {
			errs = append(errs, field.Invalid(p, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds)))
		}
		if *s > most {
			errs = append(errs, field.Invalid(p, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most)))
		}
	}
	given := false
	for child, path := range map[string]string{"credentialBundlePath": c.CredentialBundlePath, "keyPath": c.KeyPath, "certificateChainPath": c.CertificateChainPath} {
		if path != "" {
			given = true
			errs = append(errs, validateItemPath(path, at.Child(child))...)
		}
	}
	if !given {
		errs = append(errs, field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	return append(errs, apivalidation.ValidateAnnotations(c.UserAnnotations, at.Child("userAnnotations"))...)
}

// ValidateSignerName checks the name of a signer of certificates: a domain of two parts at least, a slash, and a name.
func ValidateSignerName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	labels := strings.Split(domain, ".")
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	check := func(parts []string, value string, judge func(string) []string) {
		for _, part := range parts {
			for _, msg := range judge(part) {
				errs = append(errs, field.Invalid(at, value, fmt.Sprintf("validating label %q: %s", part, msg)))
			}
		}
	}
	check(labels, domain, validation.IsDNS1123Label)
	check(strings.Split(path, "."), path, validation.IsDNS1123Subdomain)
	const maxName = 571 // of the forms namespace.name in a path, as the API says
	if len(name) > maxName {
		errs = append(errs, field.TooLong(at, "", maxName))
	}
	return errs
}
