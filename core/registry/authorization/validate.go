package authorization

import (
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validate(res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) field.ErrorList {
	spec := field.NewPath("spec")
	switch {
	case res != nil && other != nil:
		return field.ErrorList{field.Invalid(spec.Child("nonResourceAttributes"), other, "cannot be specified in combination with resourceAttributes")}
	case res == nil && other == nil:
		return field.ErrorList{field.Invalid(spec.Child("resourceAttributes"), other, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	case res == nil:
		return nil
	}
	path := spec.Child("resourceAttributes")
	var errs field.ErrorList
	if f := res.FieldSelector; f != nil {
		errs = append(errs, validateSelector(f.RawSelector, len(f.Requirements), path.Child("fieldSelector"))...)
		for i, r := range f.Requirements {
			errs = append(errs, metavalidation.ValidateFieldSelectorRequirement(r, metavalidation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				path.Child("fieldSelector", "requirements").Index(i))...)
		}
	}
	if l := res.LabelSelector; l != nil {
		errs = append(errs, validateSelector(l.RawSelector, len(l.Requirements), path.Child("labelSelector"))...)
		for i, r := range l.Requirements {
			errs = append(errs, metavalidation.ValidateLabelSelectorRequirement(r, metavalidation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true},
				path.Child("labelSelector", "requirements").Index(i))...)
		}
	}
	return errs
}

// validateSelector wants the text of a selector or its requirements.
func validateSelector(raw string, requirements int, path *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	}
	return nil
}

// noMetadata refuses metadata: a review is not stored.
func noMetadata(m metav1.ObjectMeta, message string) field.ErrorList {
	m.ManagedFields = nil
	if apiequality.Semantic.DeepEqual(m, metav1.ObjectMeta{}) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, message)}
}

func validateSubject(s authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	if s.User == "" && len(s.Groups) == 0 {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified")}
	}
	return nil
}

func invalid(errs field.ErrorList) error {
	return apierrors.NewInvalid(version.WithKind("").GroupKind(), "", errs) // without a kind, as upstream
}
