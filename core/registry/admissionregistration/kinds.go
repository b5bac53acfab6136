package admissionregistration

import (
	v1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"keelson.dev/keelson/core/registry/resource"
)

// Kinds are the kinds of admissionregistration.k8s.io.
var Kinds = []resource.Kind{
	ValidatingWebhookConfigurations, MutatingWebhookConfigurations,
	ValidatingAdmissionPolicies, ValidatingAdmissionPolicyBindings,
	MutatingAdmissionPolicies, MutatingAdmissionPolicyBindings,
}

var categories = []string{"api-extensions"}

var (
	webhooksColumn    = resource.Column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration")
	validationsColumn = resource.Column("Validations", "integer", "Validations indicates the number of validation rules defined in this configuration")
	mutationsColumn   = resource.Column("Mutations", "integer", "Mutation indicates the number of mutations rules defined in this configuration")
	paramKindColumn   = resource.Column("ParamKind", "string", "ParamKind specifies the kind of resources used to parameterize this policy")
	policyColumn      = resource.Column("PolicyName", "string", "PolicyName indicates the policy definition which the policy binding binded to")
	paramRefColumn    = resource.Column("ParamRef", "string", "ParamRef indicates the param resource which sets the configuration param")
)

// ValidatingWebhookConfigurations are webhooks that refuse or let pass.
var ValidatingWebhookConfigurations = &resource.Definition[*v1.ValidatingWebhookConfiguration]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "ValidatingWebhookConfiguration",
	Plural: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:     func() *v1.ValidatingWebhookConfiguration { return &v1.ValidatingWebhookConfiguration{} },
	NewList: func() runtime.Object { return &v1.ValidatingWebhookConfigurationList{} },
	Default: func(c *v1.ValidatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			(&hook{
				config: &w.ClientConfig, rules: w.Rules, failure: &w.FailurePolicy, match: &w.MatchPolicy,
				namespaces: &w.NamespaceSelector, objects: &w.ObjectSelector, timeout: &w.TimeoutSeconds,
			}).setDefaults()
		}
	},
	Validate: validateValidatingWebhooks,
	Spec:     func(c *v1.ValidatingWebhookConfiguration) any { return &c.Webhooks },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, webhooksColumn, resource.AgeColumn},
	Row: func(c *v1.ValidatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), resource.Age(c)}
	},
}

// MutatingWebhookConfigurations are webhooks that may change objects.
var MutatingWebhookConfigurations = &resource.Definition[*v1.MutatingWebhookConfiguration]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "MutatingWebhookConfiguration",
	Plural: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:     func() *v1.MutatingWebhookConfiguration { return &v1.MutatingWebhookConfiguration{} },
	NewList: func() runtime.Object { return &v1.MutatingWebhookConfigurationList{} },
	Default: func(c *v1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			(&hook{
				config: &w.ClientConfig, rules: w.Rules, failure: &w.FailurePolicy, match: &w.MatchPolicy,
				namespaces: &w.NamespaceSelector, objects: &w.ObjectSelector, timeout: &w.TimeoutSeconds,
			}).setDefaults()
			setDefault(&w.ReinvocationPolicy, v1.NeverReinvocationPolicy)
		}
	},
	Validate: validateMutatingWebhooks,
	Spec:     func(c *v1.MutatingWebhookConfiguration) any { return &c.Webhooks },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, webhooksColumn, resource.AgeColumn},
	Row: func(c *v1.MutatingWebhookConfiguration) []any {
		return []any{c.Name, int64(len(c.Webhooks)), resource.Age(c)}
	},
}

// ValidatingAdmissionPolicies are conditions in CEL that objects must meet.
var ValidatingAdmissionPolicies = &resource.Definition[*v1.ValidatingAdmissionPolicy]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicy",
	Plural: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:     func() *v1.ValidatingAdmissionPolicy { return &v1.ValidatingAdmissionPolicy{} },
	NewList: func() runtime.Object { return &v1.ValidatingAdmissionPolicyList{} },
	Default: func(p *v1.ValidatingAdmissionPolicy) {
		setDefault(&p.Spec.FailurePolicy, v1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	Validate:       validateValidatingPolicy,
	ValidateStatus: validatePolicyStatus,
	Spec:           func(p *v1.ValidatingAdmissionPolicy) any { return &p.Spec },
	Status:         func(p *v1.ValidatingAdmissionPolicy) any { return &p.Status },
	Columns:        []metav1.TableColumnDefinition{resource.NameColumn, validationsColumn, paramKindColumn, resource.AgeColumn},
	Row: func(p *v1.ValidatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Validations)), paramKindCell(p.Spec.ParamKind), resource.Age(p)}
	},
	Setup: guardParams(func(p *v1.ValidatingAdmissionPolicy) *v1.ParamKind { return p.Spec.ParamKind }),
}

// ValidatingAdmissionPolicyBindings say where and how policies apply.
var ValidatingAdmissionPolicyBindings = &resource.Definition[*v1.ValidatingAdmissionPolicyBinding]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "ValidatingAdmissionPolicyBinding",
	Plural: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:      func() *v1.ValidatingAdmissionPolicyBinding { return &v1.ValidatingAdmissionPolicyBinding{} },
	NewList:  func() runtime.Object { return &v1.ValidatingAdmissionPolicyBindingList{} },
	Default:  func(b *v1.ValidatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	Validate: validateValidatingBinding,
	Spec:     func(b *v1.ValidatingAdmissionPolicyBinding) any { return &b.Spec },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, policyColumn, paramRefColumn, resource.AgeColumn},
	Row: func(b *v1.ValidatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), resource.Age(b)}
	},
	Setup: guardParamRef("validatingadmissionpolicies", func(b *v1.ValidatingAdmissionPolicyBinding) (string, *v1.ParamRef) {
		return b.Spec.PolicyName, b.Spec.ParamRef
	}),
}

// MutatingAdmissionPolicies are changes in CEL that objects get.
var MutatingAdmissionPolicies = &resource.Definition[*v1.MutatingAdmissionPolicy]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicy",
	Plural: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:     func() *v1.MutatingAdmissionPolicy { return &v1.MutatingAdmissionPolicy{} },
	NewList: func() runtime.Object { return &v1.MutatingAdmissionPolicyList{} },
	Default: func(p *v1.MutatingAdmissionPolicy) {
		setDefault(&p.Spec.FailurePolicy, v1.Fail)
		defaultMatch(p.Spec.MatchConstraints)
	},
	Validate: validateMutatingPolicy,
	Spec:     func(p *v1.MutatingAdmissionPolicy) any { return &p.Spec },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, mutationsColumn, paramKindColumn, resource.AgeColumn},
	Row: func(p *v1.MutatingAdmissionPolicy) []any {
		return []any{p.Name, int64(len(p.Spec.Mutations)), paramKindCell(p.Spec.ParamKind), resource.Age(p)}
	},
	Setup: guardParams(func(p *v1.MutatingAdmissionPolicy) *v1.ParamKind { return p.Spec.ParamKind }),
}

// MutatingAdmissionPolicyBindings say where mutating policies apply.
var MutatingAdmissionPolicyBindings = &resource.Definition[*v1.MutatingAdmissionPolicyBinding]{
	GroupVersion: v1.SchemeGroupVersion, Kind: "MutatingAdmissionPolicyBinding",
	Plural: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding",
	Categories: categories, ClusterScoped: true, Name: validateName,
	New:      func() *v1.MutatingAdmissionPolicyBinding { return &v1.MutatingAdmissionPolicyBinding{} },
	NewList:  func() runtime.Object { return &v1.MutatingAdmissionPolicyBindingList{} },
	Default:  func(b *v1.MutatingAdmissionPolicyBinding) { defaultMatch(b.Spec.MatchResources) },
	Validate: validateMutatingBinding,
	Spec:     func(b *v1.MutatingAdmissionPolicyBinding) any { return &b.Spec },
	Columns:  []metav1.TableColumnDefinition{resource.NameColumn, policyColumn, paramRefColumn, resource.AgeColumn},
	Row: func(b *v1.MutatingAdmissionPolicyBinding) []any {
		return []any{b.Name, b.Spec.PolicyName, paramRefCell(b.Spec.ParamRef), resource.Age(b)}
	},
	Setup: guardParamRef("mutatingadmissionpolicies", func(b *v1.MutatingAdmissionPolicyBinding) (string, *v1.ParamRef) {
		return b.Spec.PolicyName, b.Spec.ParamRef
	}),
}

func paramKindCell(k *v1.ParamKind) string {
	if k == nil {
		return "<unset>"
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRefCell(r *v1.ParamRef) string {
	if r == nil {
		return "<unset>"
	}
	namespace := "*"
	if r.Namespace != "" {
		namespace = r.Namespace
	}
	if r.Name != "" {
		return namespace + "/" + r.Name
	}
	if r.Selector != nil {
		return namespace + "/" + metav1.FormatLabelSelector(r.Selector)
	}
	return namespace + "/"
}
