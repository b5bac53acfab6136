package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	defaultTimeout = int32(10) // seconds
	defaultPort    = int32(443)
)

// setDefault sets what was left out.
func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// hook is what validating and mutating webhooks have in common, to be changed
// in place.
type hook struct {
	config              *v1.WebhookClientConfig
	rules               []v1.RuleWithOperations
	failure             **v1.FailurePolicyType
	match               **v1.MatchPolicyType
	namespaces, objects **metav1.LabelSelector
	timeout             **int32
}

func (h *hook) setDefaults() {
	setDefault(h.failure, v1.Fail)
	setDefault(h.match, v1.Equivalent)
	setDefault(h.namespaces, metav1.LabelSelector{})
	setDefault(h.objects, metav1.LabelSelector{})
	setDefault(h.timeout, defaultTimeout)
	for i := range h.rules {
		setDefault(&h.rules[i].Scope, v1.AllScopes)
	}
	if h.config.Service != nil {
		setDefault(&h.config.Service.Port, defaultPort)
	}
}

func defaultMatch(m *v1.MatchResources) {
	if m == nil {
		return
	}
	setDefault(&m.MatchPolicy, v1.Equivalent)
	setDefault(&m.NamespaceSelector, metav1.LabelSelector{})
	setDefault(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]v1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			setDefault(&rules[i].Scope, v1.AllScopes)
		}
	}
}
