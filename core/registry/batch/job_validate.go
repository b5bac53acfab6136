package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of jobs, as the API documents them.
const (
	maxIndexedParallelism = 100_000
	maxPolicyRules        = 20
	maxExitCodes          = 255
	maxConditions         = 20
	maxManagedBy          = 63
	manyCompletions       = 100_000
	manyParallel          = 10_000
	negative              = "must be greater than or equal to 0"
	maxSucceededIndexes   = 64 << 10
	onlyIndexed           = "requires indexed completion mode"
)

var (
	failureActions = sets.New(batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
	exitOperators  = sets.New(batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	statuses       = sets.New(corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
	replacements   = sets.New(batchv1.Failed, batchv1.TerminatingOrFailed)
)

// validatePolicies checks what says when a job has succeeded or failed, and who manages it.
func validatePolicies(s *batchv1.JobSpec, indexed bool, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.MaxFailedIndexes != nil {
		at := spec.Child("maxFailedIndexes")
		if s.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Required(spec.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
		}
		if s.Completions != nil && *s.MaxFailedIndexes > *s.Completions {
			errs = append(errs, field.Invalid(at, *s.MaxFailedIndexes, "must be less than or equal to completions"))
		}
		if *s.MaxFailedIndexes > manyCompletions {
			errs = append(errs, field.Invalid(at, *s.MaxFailedIndexes, fmt.Sprintf("must be less than or equal to %d", manyCompletions)))
		}
	}
	if indexed && s.BackoffLimitPerIndex != nil && s.Completions != nil && *s.Completions > manyCompletions {
		const many = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
		if s.MaxFailedIndexes == nil {
			errs = append(errs, field.Required(spec.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
		} else if *s.MaxFailedIndexes > manyParallel {
			errs = append(errs, field.Invalid(spec.Child("maxFailedIndexes"), *s.MaxFailedIndexes, fmt.Sprintf(many, manyParallel, manyCompletions)))
		}
		if s.Parallelism != nil && *s.Parallelism > manyParallel {
			errs = append(errs, field.Invalid(spec.Child("parallelism"), *s.Parallelism, fmt.Sprintf(many, manyParallel, manyCompletions)))
		}
	}
	if indexed && s.Parallelism != nil && *s.Parallelism > maxIndexedParallelism {
		errs = append(errs, field.Invalid(spec.Child("parallelism"), *s.Parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is %s", maxIndexedParallelism, batchv1.IndexedCompletion)))
	}
	if p := s.PodReplacementPolicy; p != nil {
		known := replacements
		if s.PodFailurePolicy != nil { // only pods that have failed count against it
			known = sets.New(batchv1.Failed)
		}
		if !known.Has(*p) {
			errs = append(errs, field.NotSupported(spec.Child("podReplacementPolicy"), *p, sets.List(known)))
		}
	}
	if m := s.ManagedBy; m != nil {
		at := spec.Child("managedBy")
		errs = append(errs, validation.IsDomainPrefixedPath(at, *m)...)
		if len(*m) > maxManagedBy {
			errs = append(errs, field.TooLong(at, *m, maxManagedBy))
		}
	}
	if s.PodFailurePolicy != nil {
		errs = append(errs, validateFailurePolicy(s, spec.Child("podFailurePolicy", "rules"))...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(s, indexed, spec.Child("successPolicy"))...)
	}
	return errs
}

func validateFailurePolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			names.Insert(list[i].Name)
		}
	}
	if n := len(s.PodFailurePolicy.Rules); n > maxPolicyRules {
		errs = append(errs, field.TooMany(at, n, maxPolicyRules))
	}
	for i, rule := range s.PodFailurePolicy.Rules {
		p := at.Index(i)
		switch {
		case rule.Action == "":
			errs = append(errs, field.Required(p.Child("action"), fmt.Sprintf("valid values: %q", sets.List(failureActions))))
		case rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil:
			errs = append(errs, field.Invalid(p.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
		case !failureActions.Has(rule.Action):
			errs = append(errs, field.NotSupported(p.Child("action"), rule.Action, sets.List(failureActions)))
		}
		if rule.OnExitCodes != nil {
			errs = append(errs, validateExitCodes(rule.OnExitCodes, names, p.Child("onExitCodes"))...)
		}
		if n := len(rule.OnPodConditions); n > maxConditions {
			errs = append(errs, field.TooMany(p.Child("onPodConditions"), n, maxConditions))
		}
		for j, c := range rule.OnPodConditions {
			cp := p.Child("onPodConditions").Index(j)
			for _, msg := range validation.IsQualifiedName(string(c.Type)) {
				errs = append(errs, field.Invalid(cp.Child("type"), c.Type, msg))
			}
			if !statuses.Has(c.Status) {
				errs = append(errs, field.NotSupported(cp.Child("status"), c.Status, sets.List(statuses)))
			}
		}
		given, none := rule.OnExitCodes != nil, len(rule.OnPodConditions) == 0
		if given && !none {
			errs = append(errs, field.Invalid(p, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		}
		if !given && none {
			errs = append(errs, field.Invalid(p, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func validateExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Operator == "":
		errs = append(errs, field.Required(at.Child("operator"), fmt.Sprintf("valid values: %q", sets.List(exitOperators))))
	case !exitOperators.Has(r.Operator):
		errs = append(errs, field.NotSupported(at.Child("operator"), r.Operator, sets.List(exitOperators)))
	}
	if r.ContainerName != nil && !names.Has(*r.ContainerName) {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	at = at.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(at, r.Values, "at least one value is required"))
	case n > maxExitCodes:
		errs = append(errs, field.TooMany(at, n, maxExitCodes))
	}
	seen := sets.New[int32]()
	for i, v := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			errs = append(errs, field.Invalid(at.Index(i), v, "must not be 0 for the In operator"))
		}
		if seen.Has(v) {
			errs = append(errs, field.Duplicate(at.Index(i), v))
		}
		seen.Insert(v)
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(at, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(s *batchv1.JobSpec, indexed bool, at *field.Path) field.ErrorList {
	if !indexed {
		return field.ErrorList{field.Invalid(at, *s.SuccessPolicy, onlyIndexed)}
	}
	rules := at.Child("rules")
	if len(s.SuccessPolicy.Rules) == 0 {
		return field.ErrorList{field.Required(rules, "at least one rules must be specified when the successPolicy is specified")}
	}
	var errs field.ErrorList
	if n := len(s.SuccessPolicy.Rules); n > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, n, maxPolicyRules))
	}
	completions := int32(0)
	if s.Completions != nil {
		completions = *s.Completions
	}
	for i, rule := range s.SuccessPolicy.Rules {
		errs = append(errs, validateSuccessRule(&rule, completions, rules.Index(i))...)
	}
	return errs
}

func validateSuccessRule(rule *batchv1.SuccessPolicyRule, completions int32, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
		errs = append(errs, field.Required(p, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	total := int32(0)
	if text := rule.SucceededIndexes; text != nil {
		at := p.Child("succeededIndexes")
		if len(*text) > maxSucceededIndexes {
			errs = append(errs, field.TooLong(at, *text, maxSucceededIndexes))
		}
		var err error
		if total, err = countIndexes(*text, completions); err != nil {
			errs = append(errs, field.Invalid(at, *text, "error parsing succeededIndexes: "+err.Error()))
		}
	}
	if n := rule.SucceededCount; n != nil {
		at := p.Child("succeededCount")
		if *n < 0 {
			errs = append(errs, field.Invalid(at, int64(*n), negative))
		}
		if *n > completions {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if rule.SucceededIndexes != nil && *n > total {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// countIndexes counts the indexes in a list like "1,3-5,7", which ascend and stay below the completions.
func countIndexes(text string, completions int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	total, last := int32(0), int32(-1)
	number := func(s string) (int32, error) {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", s)
		}
		if int32(n) >= completions {
			return 0, fmt.Errorf("too large index: %q", s)
		}
		if int32(n) <= last {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, n)
		}
		last = int32(n)
		return last, nil
	}
	for interval := range strings.SplitSeq(text, ",") {
		limits := strings.Split(interval, "-")
		if len(limits) > 2 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", interval)
		}
		first, err := number(limits[0])
		if err != nil {
			return 0, err
		}
		end := first
		if len(limits) == 2 {
			if end, err = number(limits[1]); err != nil {
				return 0, err
			}
		}
		total += end - first + 1
	}
	return total, nil
}

// validateSelector wants the selector that prepareJob makes, unless it is given by hand.
func validateSelector(j *batchv1.Job, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	manual := j.Spec.ManualSelector != nil && *j.Spec.ManualSelector
	if j.Spec.Selector != nil && !manual && j.ResourceVersion == "" {
		at := spec.Child("template", "metadata", "labels")
		for key, value := range ownLabels(j) {
			if j.Spec.Template.Labels[key] != value {
				errs = append(errs, field.Invalid(at.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", value)))
			}
		}
	}
	if s := j.Spec.Selector; s != nil && !manual {
		_, own := s.MatchLabels[batchv1.ControllerUidLabel]
		_, old := s.MatchLabels["controller-uid"]
		if len(s.MatchLabels) != 1 || len(s.MatchExpressions) > 0 || !own && !old {
			errs = append(errs, field.Invalid(spec.Child("selector"), s, "`selector` not auto-generated"))
		}
	}
	if indexed := j.Spec.CompletionMode != nil && *j.Spec.CompletionMode == batchv1.IndexedCompletion; indexed && j.Spec.Completions != nil && *j.Spec.Completions > 0 {
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if len(validation.IsDNS1123Label(last)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+last))
		}
	}
	return errs
}

func jobWarnings(s *batchv1.JobSpec) []string {
	if s.CompletionMode == nil || *s.CompletionMode != batchv1.IndexedCompletion || s.Completions == nil || s.Parallelism == nil ||
		*s.Completions <= manyCompletions || *s.Parallelism <= manyParallel {
		return nil
	}
	return []string{"spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, " +
		"Kubernetes might not be able to track completedIndexes when a big number of indexes fail"}
}
