package admissionregistration

import (
	"fmt"
	"regexp"
	"strings"

	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/environment"
)

const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 * 1024 // bytes
)

var (
	reasons = []metav1.StatusReason{
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge,
	}
	actions         = []v1.ValidationAction{v1.Audit, v1.Deny, v1.Warn}
	notFoundActions = []v1.ParameterNotFoundActionType{v1.DenyAction, v1.AllowAction}
	patchTypes      = []v1.PatchType{v1.PatchTypeApplyConfiguration, v1.PatchTypeJSONPatch}

	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	// reserved are words that CEL keeps for itself.
	reserved = map[string]bool{
		"true": true, "false": true, "null": true, "in": true, "as": true, "break": true, "const": true, "continue": true,
		"else": true, "for": true, "function": true, "if": true, "import": true, "let": true, "loop": true, "package": true,
		"namespace": true, "return": true, "var": true, "void": true, "while": true,
	}
)

var spec = field.NewPath("spec")

// validateCommon checks what both kinds of policies have, in the order in which
// errors are shown. The compiler it gives knows the variables.
func validateCommon(failure *v1.FailurePolicyType, kind *v1.ParamKind, match *v1.MatchResources, conditions []v1.MatchCondition,
	variables []v1.Variable,
) (cel.Compiler, field.ErrorList) {
	var errs field.ErrorList
	if failure == nil {
		errs = append(errs, field.Required(spec.Child("failurePolicy"), ""))
	}
	errs = append(errs, oneOf(spec.Child("failurePolicy"), failure, failurePolicies)...)
	if kind != nil {
		errs = append(errs, validateParamKind(kind, spec.Child("paramKind"))...)
	}
	errs = append(errs, validateConstraints(match, spec.Child("matchConstraints"))...)
	options := cel.OptionalVariableDeclarations{HasParams: kind != nil, HasAuthorizer: true}
	errs = append(errs, validateMatchConditions(newCompiler(), conditions, options, spec)...)
	if len(variables) == 0 {
		return newCompiler(), errs
	}
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return newCompiler(), append(errs, field.InternalError(spec.Child("variables"), err))
	}
	for i := range variables {
		errs = append(errs, validateVariable(c, &variables[i], options, spec.Child("variables").Index(i))...)
	}
	return c, errs
}

func validateParamKind(k *v1.ParamKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if k.APIVersion == "" {
		errs = append(errs, field.Required(at.Child("apiVersion"), ""))
	} else if gv, err := schema.ParseGroupVersion(k.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), k.APIVersion, err.Error()))
	} else {
		if gv.Group != "" {
			for _, msg := range validation.IsDNS1123Subdomain(gv.Group) {
				errs = append(errs, field.Invalid(at.Child("apiVersion"), gv.Group, msg))
			}
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at.Child("apiVersion"), k.APIVersion, "version must be specified"))
		} else {
			for _, msg := range validation.IsDNS1035Label(gv.Version) {
				errs = append(errs, field.Invalid(at.Child("apiVersion"), gv.Version, msg))
			}
		}
	}
	if k.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	if msgs := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func validateVariable(c *cel.CompositedCompiler, v *v1.Variable, options cel.OptionalVariableDeclarations, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case strings.TrimSpace(v.Name) == "":
		errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
	case !identifier.MatchString(v.Name) || reserved[v.Name]:
		errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		return append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	}
	result := c.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, options, environment.NewExpressions)
	return append(errs, compileError(result, at.Child("expression"))...)
}

func validateValidatingPolicy(p *v1.ValidatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	c, errs := validateCommon(s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables)
	validations, annotations := spec.Child("validations"), spec.Child("auditAnnotations")
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const msg = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(validations, msg), field.Required(annotations, msg))
	}
	for i := range s.Validations {
		errs = append(errs, validateValidation(c, &s.Validations[i], s.ParamKind != nil, validations.Index(i))...)
	}
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(annotations, s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := map[string]bool{}
	for i := range s.AuditAnnotations {
		a, at := &s.AuditAnnotations[i], annotations.Index(i)
		errs = append(errs, validateAuditAnnotation(c, p.Name, a, s.ParamKind != nil, at)...)
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

func validateValidation(c cel.Compiler, v *v1.Validation, params bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, compile(c, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason},
			cel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, at.Child("expression"))...)
	}
	if v.MessageExpression != "" {
		if strings.TrimSpace(v.MessageExpression) == "" {
			errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
		} else {
			errs = append(errs, compile(c, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression},
				cel.OptionalVariableDeclarations{HasParams: params}, at.Child("messageExpression"))...)
		}
	}
	message := strings.TrimSpace(v.Message)
	switch {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, oneOf(at.Child("reason"), v.Reason, reasons)...)
}

func validateAuditAnnotation(c cel.Compiler, policy string, a *v1.AuditAnnotation, params bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	key := a.Key
	if policy != "" {
		key = policy + "/" + a.Key
	}
	for _, msg := range validation.IsQualifiedName(key) {
		errs = append(errs, field.Invalid(at.Child("key"), key, msg))
	}
	at = at.Child("valueExpression")
	switch {
	case strings.TrimSpace(a.ValueExpression) == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(a.ValueExpression) > maxAuditExpression:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
	default:
		errs = append(errs, compile(c, &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression},
			cel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}, at)...)
	}
	return errs
}

func validateMutatingPolicy(p *v1.MutatingAdmissionPolicy) field.ErrorList {
	s := &p.Spec
	c, errs := validateCommon(s.FailurePolicy, s.ParamKind, s.MatchConstraints, s.MatchConditions, s.Variables)
	errs = append(errs, onlyMutating(s.MatchConstraints, spec.Child("matchConstraints"))...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(spec.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, validateMutation(c, &s.Mutations[i], s.ParamKind != nil, spec.Child("mutations").Index(i))...)
	}
	if s.ReinvocationPolicy == "" {
		return append(errs, field.Required(spec.Child("reinvocationPolicy"), ""))
	}
	return append(errs, oneOf(spec.Child("reinvocationPolicy"), &s.ReinvocationPolicy, reinvocations)...)
}

func validateMutation(c cel.Compiler, m *v1.Mutation, params bool, at *field.Path) field.ErrorList {
	if m.PatchType == "" {
		return field.ErrorList{field.Required(at.Child("patchType"), "")}
	}
	options := cel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true, HasPatchTypes: true}
	check := func(name, expression string, e cel.ExpressionAccessor) field.ErrorList {
		if strings.TrimSpace(expression) == "" {
			return field.ErrorList{field.Required(at.Child(name, "expression"), "")}
		}
		return compile(c, e, options, at.Child(name, "expression"))
	}
	var errs field.ErrorList
	switch m.PatchType {
	case v1.PatchTypeApplyConfiguration:
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(at.Child("jsonPatch"), "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
		if m.ApplyConfiguration == nil {
			return append(errs, field.Required(at.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"))
		}
		expression := m.ApplyConfiguration.Expression
		errs = append(errs, check("applyConfiguration", expression, &patch.ApplyConfigurationCondition{Expression: expression})...)
	case v1.PatchTypeJSONPatch:
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(at.Child("applyConfiguration"), "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
		if m.JSONPatch == nil {
			return append(errs, field.Required(at.Child("jsonPatch"), "must be specified when patchType is JSONPatch"))
		}
		expression := m.JSONPatch.Expression
		errs = append(errs, check("jsonPatch", expression, &patch.JSONPatchCondition{Expression: expression})...)
	default:
		errs = append(errs, oneOf(at.Child("patchType"), &m.PatchType, patchTypes)...)
	}
	return errs
}

// validateBinding checks what both kinds of bindings have.
func validateBinding(policy string, ref *v1.ParamRef, match *v1.MatchResources) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(spec.Child("policyName"), ""))
	} else {
		for _, msg := range apivalidation.NameIsDNSSubdomain(policy, false) {
			errs = append(errs, field.Invalid(spec.Child("policyName"), policy, msg))
		}
	}
	if ref != nil {
		errs = append(errs, validateParamRef(ref, spec.Child("paramRef"))...)
	}
	if match != nil {
		errs = append(errs, validateMatch(match, spec.Child("matchResources"))...)
	}
	return errs
}

func validateParamRef(r *v1.ParamRef, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	const exclusive = "name and selector are mutually exclusive"
	if r.Name != "" {
		for _, msg := range content.IsPathSegmentName(r.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), r.Name, msg))
		}
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(at.Child("name"), exclusive))
		}
	}
	if r.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(r.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(at.Child("selector"), exclusive))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	if r.ParameterNotFoundAction == nil || *r.ParameterNotFoundAction == "" {
		return append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, oneOf(at.Child("parameterNotFoundAction"), r.ParameterNotFoundAction, notFoundActions)...)
}

func validateValidatingBinding(b *v1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	at := spec.Child("validationActions")
	if len(b.Spec.ValidationActions) == 0 {
		return append(errs, field.Required(at, "at least one validation action is required"))
	}
	seen := map[v1.ValidationAction]bool{}
	for i, a := range b.Spec.ValidationActions {
		errs = append(errs, oneOf(at.Index(i), &a, actions)...)
		if seen[a] {
			errs = append(errs, field.Duplicate(at.Index(i), a))
		}
		seen[a] = true
	}
	if seen[v1.Deny] && seen[v1.Warn] {
		errs = append(errs, field.Invalid(at, b.Spec.ValidationActions, "must not contain both Deny and Warn "+
			"(repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return errs
}

func validateMutatingBinding(b *v1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	return append(errs, onlyMutating(b.Spec.MatchResources, spec.Child("matchResources"))...)
}

func validatePolicyStatus(p, _ *v1.ValidatingAdmissionPolicy) field.ErrorList {
	at := field.NewPath("status")
	errs := metav1validation.ValidateConditions(p.Status.Conditions, at.Child("conditions"))
	if p.Status.TypeChecking == nil {
		return errs
	}
	for i, w := range p.Status.TypeChecking.ExpressionWarnings {
		where := at.Child("typeChecking", "expressionWarnings").Index(i)
		if w.Warning == "" {
			errs = append(errs, field.Required(where.Child("warning"), ""))
		}
		if w.FieldRef == "" {
			errs = append(errs, field.Required(where.Child("fieldRef"), ""))
		}
	}
	return errs
}
