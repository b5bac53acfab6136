package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

var (
	containerRestartPolicies = sets.New(corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	ruleActions              = sets.New(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
	ruleOperators            = sets.New(corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
	resizeResources          = sets.New(corev1.ResourceCPU, corev1.ResourceMemory)
	resizePolicies           = sets.New(corev1.NotRequired, corev1.RestartContainer)
)

// validateRestart checks a container's own restart policy and its rules.
func validateRestart(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p := c.RestartPolicy; p != nil && !containerRestartPolicies.Has(*p) {
		errs = append(errs, field.NotSupported(at.Child("restartPolicy"), *p, sets.List(containerRestartPolicies)))
	}
	if len(c.RestartPolicyRules) == 0 {
		return errs
	}
	if c.RestartPolicy == nil {
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	at = at.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		errs = append(errs, field.TooMany(at, n, maxRestartRules))
	}
	for i, rule := range c.RestartPolicyRules {
		p := at.Index(i)
		if !ruleActions.Has(rule.Action) {
			errs = append(errs, field.NotSupported(p.Child("action"), rule.Action, sets.List(ruleActions)))
		}
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(p.Child("exitCodes"), "must be specified"))
			continue
		}
		if !ruleOperators.Has(rule.ExitCodes.Operator) {
			errs = append(errs, field.NotSupported(p.Child("exitCodes", "operator"), rule.ExitCodes.Operator, sets.List(ruleOperators)))
		}
		if n := len(rule.ExitCodes.Values); n > maxExitCodes {
			errs = append(errs, field.TooMany(p.Child("exitCodes", "values"), n, maxExitCodes))
		}
	}
	return errs
}

// validateResizePolicy reports its errors without the entry's number, as upstream does.
func validateResizePolicy(c *corev1.Container, spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range c.ResizePolicy {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(at.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, required(p.ResourceName, resizeResources, at)...)
		errs = append(errs, required(p.RestartPolicy, resizePolicies, at)...)
		if spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy == corev1.RestartContainer {
			errs = append(errs, field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}
