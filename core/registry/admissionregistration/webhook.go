package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/util/webhook"
)

const (
	maxTimeout         = 30 // seconds
	maxMatchConditions = 64
)

var (
	reviewVersions = []string{"v1", "v1beta1"}
	sideEffects    = []v1.SideEffectClass{v1.SideEffectClassNone, v1.SideEffectClassNoneOnDryRun}
)

func validateValidatingWebhooks(c *v1.ValidatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range c.Webhooks {
		errs = append(errs, validateWebhook(&c.Webhooks[i], field.NewPath("webhooks").Index(i), names)...)
	}
	return errs
}

func validateMutatingWebhooks(c *v1.MutatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	names := map[string]bool{}
	for i := range c.Webhooks {
		w, at := &c.Webhooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(&v1.ValidatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}, at, names)...)
		errs = append(errs, oneOf(at.Child("reinvocationPolicy"), w.ReinvocationPolicy, reinvocations)...)
	}
	return errs
}

// validateWebhook checks one webhook; names are those of the webhooks before it.
func validateWebhook(w *v1.ValidatingWebhook, at *field.Path, names map[string]bool) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], at.Child("rules").Index(i))...)
	}
	errs = append(errs, oneOf(at.Child("failurePolicy"), w.FailurePolicy, failurePolicies)...)
	errs = append(errs, oneOf(at.Child("matchPolicy"), w.MatchPolicy, matchPolicies)...)
	if w.SideEffects == nil {
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	}
	errs = append(errs, oneOf(at.Child("sideEffects"), w.SideEffects, sideEffects)...)
	if s := w.TimeoutSeconds; s != nil && (*s < 1 || *s > maxTimeout) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *s, "the timeout value must be between 1 and 30 seconds"))
	}
	options := metav1validation.LabelSelectorValidationOptions{}
	if w.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(w.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
	if w.ObjectSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(w.ObjectSelector, options, at.Child("objectSelector"))...)
	}
	errs = append(errs, validateClientConfig(&w.ClientConfig, at.Child("clientConfig"))...)
	errs = append(errs, validateMatchConditions(newCompiler(), w.MatchConditions, cel.OptionalVariableDeclarations{HasAuthorizer: true}, at)...)
	errs = append(errs, validateReviewVersions(w.AdmissionReviewVersions, at.Child("admissionReviewVersions"))...)
	if w.Name != "" {
		if names[w.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), w.Name))
		}
		names[w.Name] = true
	}
	return errs
}

func validateClientConfig(c *v1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhook.ValidateWebhookURL(at.Child("url"), *c.URL, true)
	}
	port := defaultPort
	if c.Service.Port != nil {
		port = *c.Service.Port
	}
	return webhook.ValidateWebhookService(at.Child("service"), c.Service.Namespace, c.Service.Name, c.Service.Path, port)
}

func validateReviewVersions(versions []string, at *field.Path) field.ErrorList {
	known := strings.Join(reviewVersions, ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of "+known)}
	}
	var errs field.ErrorList
	seen, found := map[string]bool{}, false
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		for _, msg := range validation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(at.Index(i), v, msg))
		}
		found = found || slices.Contains(reviewVersions, v)
	}
	if !found {
		errs = append(errs, field.Invalid(at, versions, fmt.Sprintf("must include at least one of %s", known)))
	}
	return errs
}
