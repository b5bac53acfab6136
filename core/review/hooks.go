package review

import (
	"errors"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
)

const (
	// The contract's bounds of a hook's timeout, and what it is if unset.
	leastTimeout, mostTimeout, defaultTimeout = 100 * time.Millisecond, 30 * time.Second, 10 * time.Second
	// maxConditions is how many match conditions a hook may have, as a webhook.
	maxConditions = 64
)

// hook is one that is in force.
type hook struct {
	plugin   *plugin
	name     string
	mutating bool
	ignore   bool // its failures
	timeout  time.Duration
	effects  admissionv1.SideEffects
	// accessor has what it matches, in the form of a webhook.
	accessor webhook.WebhookAccessor
	wish     *admissionv1.Hook // as the plugin told it
}

// newHooks checks all hooks of a plugin. The error names every fault.
func newHooks(p *plugin, list []*admissionv1.Hook) ([]*hook, error) {
	var faults field.ErrorList
	var hooks []*hook
	seen := map[string]bool{}
	for i, h := range list {
		at := field.NewPath("hooks").Index(i)
		for _, msg := range validation.IsDNS1123Label(h.GetName()) {
			faults = append(faults, field.Invalid(at.Child("name"), h.GetName(), msg))
		}
		if seen[h.GetName()] {
			faults = append(faults, field.Duplicate(at.Child("name"), h.GetName()))
		}
		seen[h.GetName()] = true
		made, errs := newHook(p, h, at)
		faults = append(faults, errs...)
		hooks = append(hooks, made)
	}
	if err := faults.ToAggregate(); err != nil {
		return nil, err
	}
	return hooks, nil
}

func newHook(p *plugin, h *admissionv1.Hook, at *field.Path) (*hook, field.ErrorList) {
	made := &hook{
		plugin: p, name: h.GetName(), wish: h, effects: h.GetSideEffects(), timeout: defaultTimeout,
		mutating: h.GetPhase() == admissionv1.Phase_PHASE_MUTATING, ignore: h.GetFailurePolicy() == admissionv1.FailurePolicy_FAILURE_POLICY_IGNORE,
	}
	var faults field.ErrorList
	if phase := h.GetPhase(); phase != admissionv1.Phase_PHASE_MUTATING && phase != admissionv1.Phase_PHASE_VALIDATING {
		faults = append(faults, field.Invalid(at.Child("phase"), phase.String(), "must be PHASE_MUTATING or PHASE_VALIDATING"))
	}
	if e := made.effects; e < admissionv1.SideEffects_SIDE_EFFECTS_NONE || e > admissionv1.SideEffects_SIDE_EFFECTS_SOME {
		faults = append(faults, field.Invalid(at.Child("side_effects"), e.String(), "must be SIDE_EFFECTS_NONE, SIDE_EFFECTS_NONE_ON_DRY_RUN or SIDE_EFFECTS_SOME"))
	}
	if f := h.GetFailurePolicy(); f < admissionv1.FailurePolicy_FAILURE_POLICY_UNSPECIFIED || f > admissionv1.FailurePolicy_FAILURE_POLICY_IGNORE {
		faults = append(faults, field.Invalid(at.Child("failure_policy"), f.String(), "must be FAILURE_POLICY_FAIL or FAILURE_POLICY_IGNORE"))
	}
	if t := h.GetTimeout(); t != nil {
		if made.timeout = t.AsDuration(); made.timeout < leastTimeout || made.timeout > mostTimeout {
			faults = append(faults, field.Invalid(at.Child("timeout"), made.timeout.String(), "must be from 100ms to 30s"))
		}
	}
	m, errs := matching(h, at)
	faults = append(faults, errs...)
	id := "keelson.dev/" + p.name + "/" + h.GetName()
	if made.mutating {
		made.accessor = webhook.NewMutatingWebhookAccessor(id, p.name, &admissionregistrationv1.MutatingWebhook{
			Name: h.GetName(), Rules: m.rules, NamespaceSelector: m.namespaces, ObjectSelector: m.objects, MatchConditions: m.conditions,
			MatchPolicy: &m.policy, FailurePolicy: m.failure(made.ignore),
		})
	} else {
		made.accessor = webhook.NewValidatingWebhookAccessor(id, p.name, &admissionregistrationv1.ValidatingWebhook{
			Name: h.GetName(), Rules: m.rules, NamespaceSelector: m.namespaces, ObjectSelector: m.objects, MatchConditions: m.conditions,
			MatchPolicy: &m.policy, FailurePolicy: m.failure(made.ignore),
		})
	}
	return made, faults
}

// match is what a hook matches, in the form of a webhook.
type match struct {
	rules               []admissionregistrationv1.RuleWithOperations
	namespaces, objects *metav1.LabelSelector
	conditions          []admissionregistrationv1.MatchCondition
	policy              admissionregistrationv1.MatchPolicyType
}

func (*match) failure(ignore bool) *admissionregistrationv1.FailurePolicyType {
	policy := admissionregistrationv1.Fail
	if ignore {
		policy = admissionregistrationv1.Ignore
	}
	return &policy
}

func matching(h *admissionv1.Hook, at *field.Path) (*match, field.ErrorList) {
	m := &match{policy: admissionregistrationv1.Equivalent}
	var faults field.ErrorList
	if len(h.GetRules()) == 0 {
		faults = append(faults, field.Required(at.Child("rules"), "say what the hook is called for"))
	}
	for i, r := range h.GetRules() {
		rule, errs := newRule(r, at.Child("rules").Index(i))
		m.rules = append(m.rules, rule)
		faults = append(faults, errs...)
	}
	selector := func(text, name string) *metav1.LabelSelector {
		s, err := metav1.ParseToLabelSelector(text)
		if err == nil {
			_, err = metav1.LabelSelectorAsSelector(s)
		}
		if err != nil {
			faults = append(faults, field.Invalid(at.Child(name), text, err.Error()))
			return &metav1.LabelSelector{}
		}
		return s
	}
	m.namespaces = selector(h.GetNamespaceSelector(), "namespace_selector")
	m.objects = selector(h.GetObjectSelector(), "object_selector")
	if n := len(h.GetMatchConditions()); n > maxConditions {
		faults = append(faults, field.TooMany(at.Child("match_conditions"), n, maxConditions))
	}
	for i, c := range h.GetMatchConditions() {
		at := at.Child("match_conditions").Index(i)
		for _, msg := range validation.IsQualifiedName(c.GetName()) {
			faults = append(faults, field.Invalid(at.Child("name"), c.GetName(), msg))
		}
		if err := compile(c); err != nil {
			faults = append(faults, field.Invalid(at.Child("expression"), c.GetExpression(), err.Error()))
		}
		m.conditions = append(m.conditions, admissionregistrationv1.MatchCondition{Name: c.GetName(), Expression: c.GetExpression()})
	}
	return m, faults
}

// compiler is dear to make and only needed for conditions.
var compiler = sync.OnceValue(func() cel.ConditionCompiler {
	return cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

func compile(c *admissionv1.MatchCondition) error {
	expression := &matchconditions.MatchCondition{Name: c.GetName(), Expression: c.GetExpression()}
	made := compiler().CompileCondition([]cel.ExpressionAccessor{expression}, cel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.StoredExpressions)
	return errors.Join(made.CompilationErrors()...)
}

var operations = map[admissionv1.Operation]admissionregistrationv1.OperationType{
	admissionv1.Operation_OPERATION_CREATE:  admissionregistrationv1.Create,
	admissionv1.Operation_OPERATION_UPDATE:  admissionregistrationv1.Update,
	admissionv1.Operation_OPERATION_DELETE:  admissionregistrationv1.Delete,
	admissionv1.Operation_OPERATION_CONNECT: admissionregistrationv1.Connect,
}

func newRule(r *admissionv1.Rule, at *field.Path) (admissionregistrationv1.RuleWithOperations, field.ErrorList) {
	var faults field.ErrorList
	out := admissionregistrationv1.RuleWithOperations{
		Rule: admissionregistrationv1.Rule{APIGroups: r.GetApiGroups(), APIVersions: r.GetApiVersions(), Resources: r.GetResources()},
	}
	for i, o := range r.GetOperations() {
		name, ok := operations[o]
		if !ok {
			faults = append(faults, field.Invalid(at.Child("operations").Index(i), o.String(), "is no operation"))
		}
		out.Operations = append(out.Operations, name)
	}
	for name, n := range map[string]int{
		"operations": len(r.GetOperations()), "api_groups": len(r.GetApiGroups()), "api_versions": len(r.GetApiVersions()), "resources": len(r.GetResources()),
	} {
		if n == 0 {
			faults = append(faults, field.Required(at.Child(name), "at least one"))
		}
	}
	scope := admissionregistrationv1.AllScopes
	switch r.GetScope() {
	case admissionv1.Scope_SCOPE_UNSPECIFIED:
	case admissionv1.Scope_SCOPE_CLUSTER:
		scope = admissionregistrationv1.ClusterScope
	case admissionv1.Scope_SCOPE_NAMESPACED:
		scope = admissionregistrationv1.NamespacedScope
	default:
		faults = append(faults, field.Invalid(at.Child("scope"), fmt.Sprint(r.GetScope()), "is no scope"))
	}
	out.Scope = &scope
	return out, faults
}
