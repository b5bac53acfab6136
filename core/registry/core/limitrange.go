package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
)

var limitTypes = sets.New(corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim)

// limits are the numbers of one resource in an item of a LimitRange, nil where there is none.
type limits struct {
	low, high, standard, request, ratio *resource.Quantity
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(item.Type, at.Child("type"))...)
		if seen.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen.Insert(item.Type)
		errs = append(errs, validateLimitItem(item, at)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(string(t)) {
		errs = append(errs, field.Invalid(at, t, msg))
	}
	if len(errs) == 0 && !strings.Contains(string(t), "/") && !limitTypes.Has(t) {
		errs = append(errs, field.Invalid(at, t, "must be a standard limit type or fully qualified"))
	}
	return errs
}

func validateLimitItem(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	byName := map[corev1.ResourceName]*limits{}
	collect := func(list corev1.ResourceList, child string, set func(*limits, *resource.Quantity)) {
		for name, q := range list {
			errs = append(errs, podspec.ValidateLimitResource(item.Type, name, at.Child(child).Key(string(name)))...)
			if byName[name] == nil {
				byName[name] = &limits{}
			}
			set(byName[name], &q)
		}
	}
	collect(item.Max, "max", func(l *limits, q *resource.Quantity) { l.high = q })
	collect(item.Min, "min", func(l *limits, q *resource.Quantity) { l.low = q })
	if item.Type == corev1.LimitTypePod {
		if len(item.Default) > 0 {
			errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
		}
		if len(item.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
		}
	} else {
		collect(item.Default, "default", func(l *limits, q *resource.Quantity) { l.standard = q })
		collect(item.DefaultRequest, "defaultRequest", func(l *limits, q *resource.Quantity) { l.request = q })
	}
	collect(item.MaxLimitRequestRatio, "maxLimitRequestRatio", func(l *limits, q *resource.Quantity) { l.ratio = q })
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		if l := byName[corev1.ResourceStorage]; l == nil || l.low == nil && l.high == nil {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	for name, l := range byName {
		errs = append(errs, l.validate(string(name), at)...)
	}
	return errs
}

// validate checks that the numbers are in order: minimum, default request, default, maximum.
func (l *limits) validate(name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := func(a, b *resource.Quantity, child string, shown *resource.Quantity, format string) {
		if a != nil && b != nil && a.Cmp(*b) > 0 {
			errs = append(errs, field.Invalid(at.Child(child).Key(name), shown.String(), fmt.Sprintf(format, a.String(), b.String())))
		}
	}
	check(l.low, l.high, "min", l.low, "min value %s is greater than max value %s")
	check(l.low, l.request, "defaultRequest", l.request, "min value %s is greater than default request value %s")
	check(l.request, l.high, "defaultRequest", l.request, "default request value %s is greater than max value %s")
	check(l.request, l.standard, "defaultRequest", l.request, "default request value %s is greater than default limit value %s")
	// Upstream shows the bound here, not the default.
	check(l.low, l.standard, "default", l.low, "min value %s is greater than default value %s")
	check(l.standard, l.high, "default", l.high, "default value %s is greater than max value %s")
	if r := l.ratio; r != nil {
		p := at.Child("maxLimitRequestRatio").Key(name)
		if r.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			errs = append(errs, field.Invalid(p, r.String(), fmt.Sprintf("ratio %s is less than 1", r.String())))
		}
		if l.low != nil && l.high != nil && l.low.Sign() != 0 {
			if most := float64(l.high.MilliValue()) / float64(l.low.MilliValue()); float64(r.MilliValue())/1000 > most {
				errs = append(errs, field.Invalid(p, r.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", r.String(), most)))
			}
		}
	}
	if l.standard != nil && l.request != nil && !podspec.Overcommits(corev1.ResourceName(name)) && l.standard.Cmp(*l.request) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(name), l.request.String(),
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", l.standard.String(), l.request.String(), name)))
	}
	return errs
}

// validateController checks a ReplicationController.
func validateController(rc *corev1.ReplicationController, spec *field.Path) field.ErrorList {
	errs := podspec.ValidateTemplate(rc.Spec.Template, spec.Child("template"))
	if rc.Spec.Replicas != nil && *rc.Spec.Replicas < 0 {
		errs = append(errs, field.Invalid(spec.Child("replicas"), int64(*rc.Spec.Replicas), "must be greater than or equal to 0"))
	}
	if rc.Spec.MinReadySeconds < 0 {
		errs = append(errs, field.Invalid(spec.Child("minReadySeconds"), int64(rc.Spec.MinReadySeconds), "must be greater than or equal to 0"))
	}
	if len(rc.Spec.Selector) == 0 {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	} else if !labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(rc.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), rc.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if p := rc.Spec.Template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("template", "spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if rc.Spec.Template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("template", "spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return errs
}
