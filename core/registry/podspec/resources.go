package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var containerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

// ValidateResources checks requests and limits: known names, no negative
// quantities, and no request above its limit.
func ValidateResources(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	errs := validateContainerList(r.Limits, at.Child("limits"))
	errs = append(errs, validateContainerList(r.Requests, at.Child("requests"))...)
	for name, request := range r.Requests {
		limit, limited := r.Limits[name]
		switch {
		case limited && !overcommits(name) && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case !limited && !overcommits(name):
			errs = append(errs, field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		}
	}
	return errs
}

// overcommits says whether the limits of a resource may exceed what there is.
func overcommits(name corev1.ResourceName) bool {
	return !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) &&
		(!strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix))
}

func validateContainerList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range list {
		p := at.Key(string(name))
		errs = append(errs, invalid(string(name), p, validation.IsQualifiedName(string(name)))...)
		if !strings.Contains(string(name), "/") && !containerResources.Has(name) && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			errs = append(errs, field.Invalid(p, string(name), "must be a standard resource for containers"))
		}
		errs = append(errs, ValidateQuantity(q, p)...)
	}
	return errs
}

func validateList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range list {
		errs = append(errs, ValidateQuantity(q, at.Key(string(name)))...)
	}
	return errs
}
