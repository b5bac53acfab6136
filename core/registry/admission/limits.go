package admission

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// constrain holds requests and limits against the minima, maxima and ratios of
// an item.
func constrain(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	var errs []error
	for _, k := range sortedNames(item.Min) {
		errs = appendError(errs, atLeast(item.Type, k, item.Min[k], requests, limits))
	}
	for _, k := range sortedNames(item.Max) {
		errs = appendError(errs, atMost(item.Type, k, item.Max[k], "limit", limits, requests))
	}
	for _, k := range sortedNames(item.MaxLimitRequestRatio) {
		errs = appendError(errs, ratio(item.Type, k, item.MaxLimitRequestRatio[k], requests, limits))
	}
	return errs
}

func appendError(errs []error, err error) []error {
	if err != nil {
		return append(errs, err)
	}
	return errs
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for k := range list {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

func atLeast(t corev1.LimitType, name corev1.ResourceName, low resource.Quantity, requests, limits corev1.ResourceList) error {
	request, ok := requests[name]
	if !ok {
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, t, low.String())
	}
	if request.Cmp(low) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, t, low.String(), request.String())
	}
	if limit, ok := limits[name]; ok && limit.Cmp(low) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, t, low.String(), limit.String())
	}
	return nil
}

// atMost checks what must be there and called word, and then the other list.
func atMost(t corev1.LimitType, name corev1.ResourceName, high resource.Quantity, word string, must, other corev1.ResourceList) error {
	value, ok := must[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No %s is specified", name, t, high.String(), word)
	}
	if value.Cmp(high) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but %s is %s", name, t, high.String(), word, value.String())
	}
	if value, ok := other[name]; ok && value.Cmp(high) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, t, high.String(), value.String())
	}
	return nil
}

func ratio(t corev1.LimitType, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, limit := requests[name], limits[name]
	if request.Sign() == 0 {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, t, most.String())
	}
	if limit.Sign() == 0 {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, t, most.String())
	}
	got := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	// The small addend is for what division loses.
	if got*1000 > float64(most.MilliValue())+1e-6 {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, t, most.String(), got)
	}
	return nil
}
