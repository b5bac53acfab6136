package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

var (
	containerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	standardResources  = containerResources.Union(sets.New(corev1.ResourceStorage, corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceQuotas, corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage))
	podLevelNames = []string{"cpu", "hugepages-", "memory"}
)

// ValidateResources checks a container's requests and limits: known names, no
// negative quantities, and no request above its limit.
func ValidateResources(r *corev1.ResourceRequirements, claims sets.Set[string], at *field.Path) field.ErrorList {
	errs := validateContainerList(r.Limits, at.Child("limits"))
	errs = append(errs, validateContainerList(r.Requests, at.Child("requests"))...)
	errs = append(errs, validateAgainstLimits(r, at)...)
	huge := false
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name := range list {
			huge = huge || isHuge(name)
		}
	}
	if _, cpu := either(r, corev1.ResourceCPU); huge && !cpu {
		if _, memory := either(r, corev1.ResourceMemory); !memory {
			errs = append(errs, field.Forbidden(at, "HugePages require cpu or memory"))
		}
	}
	return append(errs, validateClaimNames(r.Claims, claims, at.Child("claims"))...)
}

// either gives the limit of a resource, else its request.
func either(r *corev1.ResourceRequirements, name corev1.ResourceName) (resource.Quantity, bool) {
	if q, ok := r.Limits[name]; ok {
		return q, true
	}
	q, ok := r.Requests[name]
	return q, ok
}

func isHuge(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func validateAgainstLimits(r *corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
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

// validateClaimNames checks which of the pod's resource claims are used.
func validateClaimNames(used []corev1.ResourceClaim, known sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	whole, part := sets.New[string](), sets.New[string]() // part: claim/request
	for i, c := range used {
		p := at.Index(i)
		if c.Name == "" {
			errs = append(errs, field.Required(p, ""))
			continue
		}
		if c.Request != "" {
			errs = append(errs, invalid(c.Request, p.Child("request"), validation.IsDNS1123Label(c.Request))...)
		}
		key := c.Name
		if c.Request != "" {
			key += "/" + c.Request
		}
		if whole.Has(c.Name) || part.Has(key) || c.Request == "" && hasPrefix(part, c.Name+"/") {
			errs = append(errs, field.Duplicate(p, key))
		} else if c.Request == "" {
			whole.Insert(c.Name)
		} else {
			part.Insert(key)
		}
		if !known.Has(c.Name) {
			e := field.NotFound(p, c.Name)
			e.Detail = "must be one of the names in pod.spec.resourceClaims which is empty"
			if known.Len() > 0 {
				e.Detail = "must be one of the names in pod.spec.resourceClaims: " + strings.Join(sets.List(known), ", ")
			}
			errs = append(errs, e)
		}
	}
	return errs
}

func hasPrefix(set sets.Set[string], prefix string) bool {
	for s := range set {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// validatePodClaims checks spec.resourceClaims and gives their names.
func validatePodClaims(claims []corev1.PodResourceClaim, at *field.Path) (sets.Set[string], field.ErrorList) {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, c := range claims {
		p := at.Index(i)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(p.Child("name"), ""))
		case names.Has(c.Name):
			errs = append(errs, field.Duplicate(p.Child("name"), c.Name))
		default:
			errs = append(errs, invalid(c.Name, p.Child("name"), validation.IsDNS1123Label(c.Name))...)
			names.Insert(c.Name)
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(p, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(p, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := c.ResourceClaimName; n != nil {
			errs = append(errs, invalid(*n, p.Child("resourceClaimName"), validation.IsDNS1123Subdomain(*n))...)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			errs = append(errs, invalid(*n, p.Child("resourceClaimTemplateName"), validation.IsDNS1123Subdomain(*n))...)
		}
	}
	return names, errs
}

// overcommits says whether the limits of a resource may exceed what there is.
func overcommits(name corev1.ResourceName) bool {
	return !isHuge(name) && (!strings.Contains(string(name), "/") || isNative(name))
}

func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

func validateContainerList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range list {
		p := at.Key(string(name))
		errs = append(errs, validateContainerResource(name, p)...)
		errs = append(errs, ValidateResourceQuantity(name, q, p)...)
		if isHuge(name) {
			errs = append(errs, validatePages(name, q, p)...)
		}
	}
	return errs
}

// validatePages wants a whole number of pages of the size in the name.
func validatePages(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, q.String(), err.Error())}
	case size.Value() <= 0 || q.Value() <= 0 && q.Sign() != 0 || q.Value()%size.Value() != 0 || q.MilliValue()%1000 != 0:
		return field.ErrorList{field.Invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))}
	}
	return nil
}

func validateContainerResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := validateResourceName(name, at)
	switch {
	case !strings.Contains(string(name), "/"):
		if !containerResources.Has(name) && !isHuge(name) {
			errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for containers"))
		}
	case !isNative(name) && !isExtended(name):
		errs = append(errs, field.Invalid(at, string(name), "doesn't follow extended resource name standard"))
	}
	return errs
}

// validateResourceName checks the form of a name, and that one without a domain is known.
func validateResourceName(name corev1.ResourceName, at *field.Path) field.ErrorList {
	errs := invalid(string(name), at, validation.IsQualifiedName(string(name)))
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !standardResources.Has(name) && !isHuge(name) {
		errs = append(errs, field.Invalid(at, string(name), "must be a standard resource type or fully qualified"))
	}
	return errs
}

// isExtended says whether a name is one that device plugins may offer.
func isExtended(name corev1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// ValidateResourceQuantity refuses what is negative, and parts of what comes whole only.
func ValidateResourceQuantity(name corev1.ResourceName, q resource.Quantity, at *field.Path) field.ErrorList {
	errs := ValidateQuantity(q, at)
	if isExtended(name) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

// validatePodResources checks the resources of a pod as a whole, which its
// containers' may not exceed.
func validatePodResources(spec *corev1.PodSpec, claims sets.Set[string], at *field.Path) field.ErrorList {
	r := spec.Resources
	if r == nil || spec.OS != nil && spec.OS.Name == corev1.Windows {
		return nil
	}
	var errs field.ErrorList
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
		errs = append(errs, validateClaimNames(r.Claims, claims, at.Child("claims"))...)
	}
	for child, list := range map[string]corev1.ResourceList{"limits": r.Limits, "requests": r.Requests} {
		for name, q := range list {
			p := at.Child(child).Key(string(name))
			if bad := validateResourceName(name, p); len(bad) > 0 {
				errs = append(errs, bad...)
				continue
			}
			if !podLevel(name) {
				errs = append(errs, field.NotSupported(p, string(name), podLevelNames))
				continue
			}
			errs = append(errs, ValidateResourceQuantity(name, q, p)...)
			if isHuge(name) {
				errs = append(errs, validatePages(name, q, p)...)
			}
		}
	}
	errs = append(errs, validateAgainstLimits(r, at)...)
	sum := resourcehelper.AggregateContainerRequests(&corev1.Pod{Spec: *spec}, resourcehelper.PodResourcesOptions{})
	for name, q := range r.Requests {
		if total, ok := sum[name]; ok && podLevel(name) && q.Cmp(total) < 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", total.String())))
		}
	}
	for i := range spec.Containers {
		for name, limit := range spec.Containers[i].Resources.Limits {
			if most, ok := r.Limits[name]; ok && podLevel(name) && limit.Cmp(most) > 0 {
				errs = append(errs, field.Invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", most.String())))
			}
		}
	}
	return errs
}

func validateOverhead(list corev1.ResourceList, at *field.Path) field.ErrorList {
	errs := validateContainerList(list, at.Child("limits"))
	return errs
}

// Overcommits says whether the limits of a resource may exceed what there is,
// so that a request may be less than the limit.
func Overcommits(name corev1.ResourceName) bool { return overcommits(name) }

// ValidateLimitResource checks the name of a resource in a LimitRange.
func ValidateLimitResource(t corev1.LimitType, name corev1.ResourceName, at *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return validateContainerResource(name, at)
	}
	return validateResourceName(name, at)
}
