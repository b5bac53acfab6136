package quota

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	apiquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// kind is what differs between kinds.
type kind interface {
	handles(a admission.Attributes) bool
	// names picks those resources that the kind has to do with.
	names(input []corev1.ResourceName) []corev1.ResourceName
	usage(obj runtime.Object) (corev1.ResourceList, error)
	constraints(required []corev1.ResourceName, obj runtime.Object) error
	inScope(scope corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error)
}

// evaluator makes a kind an Evaluator.
type evaluator struct {
	kind
	resource schema.GroupResource
	list     generic.ListFuncByNamespace
}

var _ apiquota.Evaluator = (*evaluator)(nil)

// GroupResource implements quota.Evaluator.
func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

// Handles implements quota.Evaluator.
func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

// Constraints implements quota.Evaluator.
func (e *evaluator) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	return e.constraints(required, item)
}

// Matches implements quota.Evaluator.
func (e *evaluator) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.inScope)
}

// MatchingResources implements quota.Evaluator.
func (e *evaluator) MatchingResources(input []corev1.ResourceName) []corev1.ResourceName {
	return e.names(input)
}

// MatchingScopes implements quota.Evaluator.
func (e *evaluator) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range scopes {
		ok, err := e.inScope(s, item)
		if err != nil {
			return nil, fmt.Errorf("match scope %s: %w", s.ScopeName, err)
		}
		if ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes implements quota.Evaluator.
func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, l := range limited {
		covered := false
		for _, m := range matched {
			covered = covered || l.ScopeName == m.ScopeName
		}
		if !covered {
			out = append(out, l)
		}
	}
	return out, nil
}

// Usage implements quota.Evaluator.
func (e *evaluator) Usage(item runtime.Object) (corev1.ResourceList, error) { return e.usage(item) }

// UsageStats implements quota.Evaluator.
func (e *evaluator) UsageStats(options apiquota.UsageStatsOptions) (apiquota.UsageStats, error) {
	if e.list == nil {
		return apiquota.UsageStats{}, fmt.Errorf("nothing lists %s", e.resource)
	}
	return generic.CalculateUsageStats(options, e.list, e.inScope, e.usage)
}

// selects says whether a scope's selector matches value; "" is no value at all.
func selects(scope corev1.ScopedResourceSelectorRequirement, value string) (bool, error) {
	selector := labels.NewSelector()
	var op selection.Operator
	switch scope.Operator {
	case corev1.ScopeSelectorOpIn:
		op = selection.In
	case corev1.ScopeSelectorOpNotIn:
		op = selection.NotIn
	case corev1.ScopeSelectorOpExists:
		op = selection.Exists
	case corev1.ScopeSelectorOpDoesNotExist:
		op = selection.DoesNotExist
	default:
		return false, fmt.Errorf("%q is not a valid scope selector operator", scope.Operator)
	}
	r, err := labels.NewRequirement(string(scope.ScopeName), op, scope.Values)
	if err != nil {
		return false, err
	}
	set := labels.Set{}
	if value != "" {
		set[string(scope.ScopeName)] = value
	}
	return selector.Add(*r).Matches(set), nil
}

// among keeps of input what is in known.
func among(input, known []corev1.ResourceName) []corev1.ResourceName {
	return apiquota.Intersection(input, known)
}

// unscoped is embedded by kinds that have no scopes and no constraints.
type unscoped struct{}

func (unscoped) constraints([]corev1.ResourceName, runtime.Object) error { return nil }

func (unscoped) inScope(corev1.ScopedResourceSelectorRequirement, runtime.Object) (bool, error) {
	return false, nil
}

// Terminal says whether a pod has ended, or should long have, and so takes
// nothing any more but its place as an object.
func Terminal(pod *corev1.Pod, now metav1.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	return now.Unix() > pod.DeletionTimestamp.Unix()+*pod.DeletionGracePeriodSeconds
}
