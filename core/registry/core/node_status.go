package core

import (
	"encoding/json"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
)

// validateNodeStatus checks what a kubelet reports.
func validateNodeStatus(s *corev1.NodeStatus) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	for child, list := range map[string]corev1.ResourceList{"capacity": s.Capacity, "allocatable": s.Allocatable} {
		for name, q := range list {
			errs = append(errs, podspec.ValidateResourceQuantity(name, q, at.Child(child).Child(string(name)))...)
		}
	}
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range s.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(at.Child("addresses").Index(i), a))
		}
		seen.Insert(a)
	}
	return errs
}

// validateAvoided checks the annotation that says whose pods a node had better not get.
func validateAvoided(annotations map[string]string, at *field.Path) field.ErrorList {
	const key = corev1.PreferAvoidPodsAnnotationKey
	text := annotations[key]
	if text == "" {
		return nil
	}
	var avoided corev1.AvoidPods
	at = at.Child("AvoidPods")
	if err := json.Unmarshal([]byte(text), &avoided); err != nil {
		return field.ErrorList{field.Invalid(at, key, err.Error())}
	}
	var errs field.ErrorList
	for i, entry := range avoided.PreferAvoidPods {
		p, c := at.Child(key).Index(i).Child("podSignature"), entry.PodSignature.PodController
		switch {
		case c == nil:
			errs = append(errs, field.Required(p, ""))
		case c.Controller == nil || !*c.Controller:
			errs = append(errs, field.Invalid(p.Child("PodController", "Controller"), c.Controller, "must point to a controller"))
		}
	}
	return errs
}

// oneOfEachFamily says whether there are two ranges at most, then of different families.
func oneOfEachFamily(cidrs []string) bool {
	if len(cidrs) < 2 {
		return true
	}
	if len(cidrs) > 2 {
		return false
	}
	a, errA := netip.ParsePrefix(cidrs[0])
	b, errB := netip.ParsePrefix(cidrs[1])
	return errA != nil || errB != nil || a.Addr().Is4() != b.Addr().Is4()
}

func nodeWarnings(n *corev1.Node) []string {
	if n.Spec.DoNotUseExternalID == "" {
		return nil
	}
	return []string{"spec.externalID: this field is deprecated, and is unused by Kubernetes"}
}
