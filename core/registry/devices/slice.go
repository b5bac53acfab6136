package devices

import (
	"strings"

	"github.com/blang/semver/v4"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/podspec"
)

func validateSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateDriver(s.Spec.Driver, spec.Child("driver"))
	pool := spec.Child("pool")
	errs = append(errs, validatePool(s.Spec.Pool.Name, pool.Child("name"))...)
	if n := s.Spec.Pool.ResourceSliceCount; n <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), n, "must be greater than zero"))
	}
	if n := s.Spec.Pool.Generation; n < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), n, "must be greater than or equal to zero"))
	}
	errs = append(errs, validateWhere(&s.Spec, spec)...)
	if s.Spec.SharedCounters != nil && s.Spec.Devices != nil {
		errs = append(errs, field.Invalid(spec, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	devices, limit := spec.Child("devices"), resourcev1.ResourceSliceMaxDevices
	seen := sets.New[string]()
	perDevice := s.Spec.PerDeviceNodeSelection != nil && *s.Spec.PerDeviceNodeSelection
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		if len(d.Taints)+len(d.ConsumesCounters) > 0 {
			limit = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(devices.Index(i), d.Name))
		}
		seen.Insert(d.Name)
		errs = append(errs, validateDevice(d, perDevice, devices.Index(i))...)
	}
	if n := len(s.Spec.Devices); n > limit {
		errs = append(errs, field.TooMany(devices, n, limit))
	}
	return append(errs, validateCounterSets(s.Spec.SharedCounters, spec.Child("sharedCounters"))...)
}

// validateWhere checks that exactly one field says from where the devices can be reached.
func validateWhere(s *resourcev1.ResourceSliceSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var given []string
	if s.NodeName != nil {
		if *s.NodeName == "" {
			errs = append(errs, field.Invalid(at.Child("nodeName"), "", "must be either unset or set to a non-empty string"))
		} else {
			given = append(given, "`nodeName`")
			errs = append(errs, validateNode(*s.NodeName, at.Child("nodeName"))...)
		}
	}
	if s.NodeSelector != nil {
		given = append(given, "`nodeSelector`")
		errs = append(errs, validateOneTerm(s.NodeSelector, at.Child("nodeSelector"))...)
	}
	flag := func(b *bool, name string) {
		switch {
		case b == nil:
		case *b:
			given = append(given, "`"+name+"`")
		default:
			errs = append(errs, field.Invalid(at.Child(name), false, "must be either unset or set to true"))
		}
	}
	flag(s.AllNodes, "allNodes")
	flag(s.PerDeviceNodeSelection, "perDeviceNodeSelection")
	const rule = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	switch len(given) {
	case 0:
		errs = append(errs, field.Required(at, rule))
	case 1:
	default:
		errs = append(errs, field.Invalid(at, "{"+strings.Join(given, ", ")+"}", rule+", but multiple fields are set"))
	}
	return errs
}

func validateNode(name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range apivalidation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validateOneTerm(s *corev1.NodeSelector, at *field.Path) field.ErrorList {
	errs := podspec.ValidateNodeSelector(s, at)
	if len(s.NodeSelectorTerms) != 1 {
		errs = append(errs, field.Invalid(at.Child("nodeSelectorTerms"), s.NodeSelectorTerms, "must have exactly one node selector term"))
	}
	return errs
}

func validateDevice(d *resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	errs := validateLabel(d.Name, at.Child("name"))
	errs = append(errs, validateAttributes(d, at)...)
	if n := len(d.Taints); n > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(at.Child("taints"), n, resourcev1.DeviceTaintsMaxLength))
	}
	for i := range d.Taints {
		errs = append(errs, validateTaint(&d.Taints[i], at.Child("taints").Index(i))...)
	}
	errs = append(errs, validateConsumption(d.ConsumesCounters, at.Child("consumesCounters"))...)
	errs = append(errs, validateBinding(d, at)...)

	var given []string
	if d.NodeName != nil {
		given = append(given, "`nodeName`")
		errs = append(errs, validateNode(*d.NodeName, at.Child("nodeName"))...)
	}
	if d.NodeSelector != nil {
		given = append(given, "`nodeSelector`")
		errs = append(errs, validateOneTerm(d.NodeSelector, at.Child("nodeSelector"))...)
	}
	if d.AllNodes != nil {
		if *d.AllNodes {
			given = append(given, "`allNodes`")
		} else {
			errs = append(errs, field.Invalid(at.Child("allNodes"), false, "must be either unset or set to true"))
		}
	}
	const rule = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	switch {
	case !perDevice && len(given) > 0:
		errs = append(errs, field.Invalid(at, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	case perDevice && len(given) == 0:
		errs = append(errs, field.Required(at, rule))
	case perDevice && len(given) > 1:
		errs = append(errs, field.Invalid(at, "{"+strings.Join(given, ", ")+"}", rule))
	}
	return errs
}

// validateBinding checks the conditions that have to hold, and those that must not, before a pod is bound.
func validateBinding(d *resourcev1.Device, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	list := func(name string, conditions []string, limit int) {
		if len(conditions) > limit {
			errs = append(errs, field.TooMany(at.Child(name), len(conditions), limit))
		}
		for i, c := range conditions {
			errs = append(errs, metav1validation.ValidateLabelName(c, at.Child(name).Index(i))...)
		}
	}
	list("bindingConditions", d.BindingConditions, resourcev1.BindingConditionsMaxSize)
	list("bindingFailureConditions", d.BindingFailureConditions, resourcev1.BindingFailureConditionsMaxSize)
	if (len(d.BindingConditions) == 0) != (len(d.BindingFailureConditions) == 0) {
		missing, given := "bindingConditions", "bindingFailureConditions"
		if len(d.BindingConditions) > 0 {
			missing, given = given, missing
		}
		errs = append(errs, field.Invalid(at.Child(missing), []string{}, missing+" are required to use "+given))
	}
	for i, c := range d.BindingFailureConditions {
		if sets.New(d.BindingConditions...).Has(c) {
			errs = append(errs, field.Invalid(at.Child("bindingFailureConditions").Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	return errs
}

func validateAttributes(d *resourcev1.Device, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(at, n, "the total number of attributes and capacities must not exceed 32"))
	}
	for name, a := range d.Attributes {
		errs = append(errs, validateQualifiedName(string(name), at.Child("attributes"))...)
		errs = append(errs, validateAttribute(&a, at.Child("attributes").Key(string(name)))...)
	}
	shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	for name, c := range d.Capacity {
		errs = append(errs, validateQualifiedName(string(name), at.Child("capacity"))...)
		if c.RequestPolicy == nil {
			continue
		}
		p := at.Child("capacity").Key(string(name)).Child("requestPolicy")
		if !shared {
			errs = append(errs, field.Forbidden(p, "allowMultipleAllocations must be true"))
			continue
		}
		errs = append(errs, validatePolicy(c.RequestPolicy, p)...)
	}
	return errs
}

// validatePolicy checks how much of a capacity may be asked for.
func validatePolicy(r *resourcev1.CapacityRequestPolicy, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.ValidValues) > 0 && r.ValidRange != nil {
		return append(errs, field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`))
	}
	if r.Default == nil && (len(r.ValidValues) > 0 || r.ValidRange != nil) {
		errs = append(errs, field.Required(at.Child("default"), "required when any requestPolicy is specified"))
	}
	if v := r.ValidRange; v != nil {
		p := at.Child("validRange")
		if v.Min == nil {
			errs = append(errs, field.Required(p.Child("min"), ""))
		} else if v.Max != nil && v.Min.Cmp(*v.Max) > 0 {
			errs = append(errs, field.Invalid(p.Child("min"), v.Min.String(), "min must be less than or equal to max "+v.Max.String()))
		}
	}
	return errs
}

func validateAttribute(a *resourcev1.DeviceAttribute, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	given := 0
	if a.IntValue != nil {
		given++
	}
	if a.BoolValue != nil {
		given++
	}
	long := func(v, name string) {
		if len(v) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(at.Child(name), "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if a.StringValue != nil {
		given++
		long(*a.StringValue, "string")
	}
	if a.VersionValue != nil {
		given++
		if _, err := semver.Parse(*a.VersionValue); err != nil {
			errs = append(errs, field.Invalid(at.Child("version"), *a.VersionValue, "must be a string compatible with semver.org spec 2.0.0"))
		}
		long(*a.VersionValue, "version")
	}
	for _, n := range []int{len(a.IntValues), len(a.BoolValues), len(a.StringValues), len(a.VersionValues)} {
		if n > 0 {
			given++
		}
	}
	switch given {
	case 0:
		errs = append(errs, field.Invalid(at, "", "exactly one value must be specified"))
	case 1:
	default:
		errs = append(errs, field.Invalid(at, *a, "exactly one value must be specified"))
	}
	return errs
}

func validateTaint(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, at.Child("key"))
	for _, msg := range validation.IsValidLabelValue(t.Value) {
		errs = append(errs, field.Invalid(at.Child("value"), t.Value, msg))
	}
	return append(errs, validateEffect(t.Effect, at.Child("effect"))...)
}

func validateCounterSets(list []resourcev1.CounterSet, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.ResourceSliceMaxCounterSets {
		errs = append(errs, field.TooMany(at, n, resourcev1.ResourceSliceMaxCounterSets))
	}
	seen := sets.New[string]()
	for i, s := range list {
		p := at.Index(i)
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(p, s.Name))
		}
		seen.Insert(s.Name)
		if s.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		} else {
			errs = append(errs, validateLabel(s.Name, p.Child("name"))...)
		}
		errs = append(errs, validateCounters(s.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, p.Child("counters"))...)
	}
	return errs
}

func validateCounters(counters map[string]resourcev1.Counter, limit int, at *field.Path) field.ErrorList {
	if len(counters) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(counters) > limit {
		errs = append(errs, field.TooMany(at, len(counters), limit))
	}
	for name := range counters {
		errs = append(errs, validateLabel(name, at)...)
	}
	return errs
}

func validateConsumption(list []resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
	if n := len(list); n > resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice {
		return field.ErrorList{field.TooMany(at, n, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, c := range list {
		p := at.Index(i)
		if seen.Has(c.CounterSet) {
			errs = append(errs, field.Duplicate(p, c.CounterSet))
		}
		seen.Insert(c.CounterSet)
		if c.CounterSet == "" {
			errs = append(errs, field.Required(p.Child("counterSet"), ""))
		}
		errs = append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, p.Child("counters"))...)
	}
	return errs
}
