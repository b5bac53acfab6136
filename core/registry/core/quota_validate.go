package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
)

var (
	// countedForQuota come whole only.
	countedForQuota = sets.New(corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)
	// ofPods are what pods use; a scope of pods can be applied to them.
	ofPods = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory)
	quotaResources = countedForQuota.Union(ofPods).Union(sets.New(corev1.ResourceEphemeralStorage, corev1.ResourceRequestsStorage,
		corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage))

	quotaScopes = sets.New(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass)
	// scopesThatExist are or are not: they have no values.
	scopesThatExist = quotaScopes.Difference(sets.New(corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass))
	contraryScopes  = [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	}
)

func validateQuota(q *corev1.ResourceQuota) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateQuotaList(q.Spec.Hard, spec.Child("hard"))
	errs = append(errs, validateScopes(q.Spec.Scopes, q.Spec.Hard, spec.Child("scopes"))...)
	if q.Spec.ScopeSelector != nil {
		errs = append(errs, validateScopeSelector(q.Spec.ScopeSelector, q.Spec.Hard, spec.Child("scopeSelector", "matchExpressions"))...)
	}
	return errs
}

func validateQuotaList(list corev1.ResourceList, all *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, amount := range list {
		at := all.Key(string(name))
		errs = append(errs, validateQuotaResource(name, at)...)
		errs = append(errs, podspec.ValidateResourceQuantity(name, amount, at)...)
		if countedForQuota.Has(name) && amount.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, amount.String(), "must be an integer"))
		}
	}
	return errs
}

func validateQuotaResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := podspec.ValidateQualifiedName(string(name), at)
	text := string(name)
	if strings.Contains(text, "/") || isQuotaResource(name) {
		return errs
	}
	if len(errs) == 0 && name != corev1.ResourceStorage {
		errs = append(errs, field.Invalid(at, text, "must be a standard resource type or fully qualified"))
	}
	return append(errs, field.Invalid(at, text, "must be a standard resource for quota"))
}

// isQuotaResource says whether a quota knows the resource by itself.
func isQuotaResource(name corev1.ResourceName) bool {
	return quotaResources.Has(name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// scopeApplies says whether a scope can be applied to a resource. Scopes that nobody knows can.
func scopeApplies(s corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch s {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return name == corev1.ResourcePods || ofPods.Has(name)
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return true
}

// validateScope checks one scope against the resources.
func validateScope(s corev1.ResourceQuotaScope, hard corev1.ResourceList, unknown, at *field.Path, unknownValue, value any) field.ErrorList {
	var errs field.ErrorList
	if !quotaScopes.Has(s) {
		errs = append(errs, field.Invalid(unknown, unknownValue, "unsupported scope"))
	}
	for name := range hard {
		if isQuotaResource(name) && !scopeApplies(s, name) {
			errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
		}
	}
	return errs
}

func contrary(scopes sets.Set[corev1.ResourceQuotaScope], at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range contraryScopes {
		if scopes.HasAll(pair[0], pair[1]) {
			errs = append(errs, field.Invalid(at, value, "conflicting scopes"))
		}
	}
	return errs
}

func validateScopes(scopes []corev1.ResourceQuotaScope, hard corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, s := range scopes {
		errs = append(errs, validateScope(s, hard, at, at, scopes, scopes)...)
	}
	return append(errs, contrary(sets.New(scopes...), at, scopes)...)
}

func validateScopeSelector(sel *corev1.ScopeSelector, hard corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.Set[corev1.ResourceQuotaScope]{}
	for _, m := range sel.MatchExpressions {
		errs = append(errs, validateScope(m.ScopeName, hard, at.Child("scopeName"), at, m.ScopeName, sel)...)
		if scopesThatExist.Has(m.ScopeName) && m.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), m.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "+
				"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		values := at.Child("values")
		switch m.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(m.Values) == 0 {
				errs = append(errs, field.Required(values, "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(m.Values) != 0 {
				errs = append(errs, field.Invalid(values, slices.Clone(m.Values), "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), m.Operator, "not a valid selector operator"))
		}
		seen.Insert(m.ScopeName)
	}
	return append(errs, contrary(seen, at, sel)...)
}
