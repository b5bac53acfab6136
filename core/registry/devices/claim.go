package devices

import (
	"encoding/json"
	"net/netip"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"keelson.dev/keelson/core/registry/podspec"
)

// unknownRequest says that a name is of no request of the claim.
const unknownRequest = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"

func validateClass(c *resourcev1.DeviceClass) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateSelectors(c.Spec.Selectors, spec.Child("selectors"))
	if n := len(c.Spec.Config); n > resourcev1.DeviceConfigMaxSize {
		errs = append(errs, field.TooMany(spec.Child("config"), n, resourcev1.DeviceConfigMaxSize))
	}
	for i, config := range c.Spec.Config {
		errs = append(errs, validateConfig(&config.DeviceConfiguration, spec.Child("config").Index(i))...)
	}
	if name := c.Spec.ExtendedResourceName; name != nil && !isExtended(*name) {
		errs = append(errs, field.Invalid(spec.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}

// isExtended says whether a name is of a resource that is not Kubernetes' own.
func isExtended(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(name, "requests.") &&
		len(validation.IsQualifiedName("requests."+name)) == 0
}

func validateSelectors(list []resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(list); n > resourcev1.DeviceSelectorsMaxSize {
		errs = append(errs, field.TooMany(at, n, resourcev1.DeviceSelectorsMaxSize))
	}
	for i, s := range list {
		p := at.Index(i).Child("cel")
		if s.CEL == nil {
			errs = append(errs, field.Required(p, ""))
			continue
		}
		errs = append(errs, validateExpression(s.CEL.Expression, p.Child("expression"))...)
	}
	return errs
}

func validateExpression(expression string, at *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(at, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	env := environment.NewExpressions
	compiler := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true})
	switch result := compiler.CompileCELExpression(expression, dracel.Options{EnvType: &env}); {
	case result.Error != nil:
		return field.ErrorList{field.Invalid(at, expression, result.Error.Detail)}
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return nil
}

func validateDriver(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.DriverNameMaxLength {
		errs = append(errs, field.TooLong(at, "", resourcev1.DriverNameMaxLength))
	}
	for _, msg := range validation.IsDNS1123Subdomain(strings.ToLower(name)) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validatePool(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(at, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		for _, msg := range validation.IsDNS1123Subdomain(part) {
			errs = append(errs, field.Invalid(at, part, msg))
		}
	}
	return errs
}

func validateLabel(name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Label(name) {
		errs = append(errs, field.Invalid(at, name, msg))
	}
	return errs
}

func validateConfig(c *resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at.Child("opaque"), "")}
	}
	at = at.Child("opaque")
	errs := validateDriver(c.Opaque.Driver, at.Child("driver"))
	return append(errs, validateRaw(&c.Opaque.Parameters, true, resourcev1.OpaqueParametersMaxLength, at.Child("parameters"))...)
}

// validateRaw checks that what only drivers understand is an object.
func validateRaw(raw *runtime.RawExtension, required bool, limit int, at *field.Path) field.ErrorList {
	var v any
	switch {
	case len(raw.Raw) == 0 || string(raw.Raw) == "null":
		if required {
			return field.ErrorList{field.Required(at, "")}
		}
		return nil
	case len(raw.Raw) > limit:
		return field.ErrorList{field.TooLong(at, "", limit)}
	case json.Unmarshal(raw.Raw, &v) != nil:
		return field.ErrorList{field.Invalid(at, "<value omitted>", "error parsing data as JSON")}
	}
	if _, ok := v.(map[string]any); !ok {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}

func validateClaim(c *resourcev1.ResourceClaimSpec, at *field.Path) field.ErrorList {
	at = at.Child("devices")
	var errs field.ErrorList
	names := sets.New[string]()
	requests := at.Child("requests")
	if n := len(c.Devices.Requests); n > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(requests, n, resourcev1.DeviceRequestsMaxSize))
	}
	for i := range c.Devices.Requests {
		r, p := &c.Devices.Requests[i], requests.Index(i)
		if names.Has(r.Name) {
			errs = append(errs, field.Duplicate(p, r.Name))
		}
		names.Insert(r.Name)
		errs = append(errs, validateRequest(r, p)...)
	}
	for i := range c.Devices.Requests {
		for _, s := range c.Devices.Requests[i].FirstAvailable {
			names.Insert(c.Devices.Requests[i].Name + "/" + s.Name)
		}
	}
	if n := len(c.Devices.Constraints); n > resourcev1.DeviceConstraintsMaxSize {
		errs = append(errs, field.TooMany(at.Child("constraints"), n, resourcev1.DeviceConstraintsMaxSize))
	}
	for i := range c.Devices.Constraints {
		errs = append(errs, validateConstraint(&c.Devices.Constraints[i], names, at.Child("constraints").Index(i))...)
	}
	if n := len(c.Devices.Config); n > resourcev1.DeviceConfigMaxSize {
		errs = append(errs, field.TooMany(at.Child("config"), n, resourcev1.DeviceConfigMaxSize))
	}
	for i := range c.Devices.Config {
		p := at.Child("config").Index(i)
		errs = append(errs, validateNames(c.Devices.Config[i].Requests, names, p.Child("requests"))...)
		errs = append(errs, validateConfig(&c.Devices.Config[i].DeviceConfiguration, p)...)
	}
	return errs
}

// validateNames checks that each name is of a request, once.
func validateNames(list []string, known sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(at, len(list), resourcev1.DeviceRequestsMaxSize))
	}
	seen := sets.New[string]()
	for i, name := range list {
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(at.Index(i), name))
			continue
		}
		seen.Insert(name)
		if !known.Has(name) {
			errs = append(errs, field.Invalid(at.Index(i), name, unknownRequest))
		}
	}
	return errs
}

func validateRequest(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
	errs := validateLabel(r.Name, at.Child("name"))
	switch {
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, validateWanted(wanted{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations}, at.Child("exactly"))...)
	}
	subs := at.Child("firstAvailable")
	if n := len(r.FirstAvailable); n > resourcev1.FirstAvailableDeviceRequestMaxSize {
		errs = append(errs, field.TooMany(subs, n, resourcev1.FirstAvailableDeviceRequestMaxSize))
	}
	seen := sets.New[string]()
	for i, s := range r.FirstAvailable {
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(subs.Index(i), s.Name))
		}
		seen.Insert(s.Name)
		errs = append(errs, validateLabel(s.Name, subs.Index(i).Child("name"))...)
		errs = append(errs, validateWanted(wanted{s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations}, subs.Index(i))...)
	}
	return errs
}

// wanted is what a request and a sub-request have in common.
type wanted struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
}

func validateWanted(w wanted, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if w.class == "" {
		errs = append(errs, field.Required(at.Child("deviceClassName"), ""))
	} else {
		for _, msg := range apivalidation.NameIsDNSSubdomain(w.class, false) {
			errs = append(errs, field.Invalid(at.Child("deviceClassName"), w.class, msg))
		}
	}
	errs = append(errs, validateSelectors(w.selectors, at.Child("selectors"))...)
	switch w.mode {
	case resourcev1.DeviceAllocationModeAll:
		if w.count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), w.count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if w.count <= 0 {
			errs = append(errs, field.Invalid(at.Child("count"), w.count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("allocationMode"), w.mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	if n := len(w.tolerations); n > resourcev1.DeviceTolerationsMaxLength {
		errs = append(errs, field.TooMany(at.Child("tolerations"), n, resourcev1.DeviceTolerationsMaxLength))
	}
	for i := range w.tolerations {
		errs = append(errs, validateToleration(&w.tolerations[i], at.Child("tolerations").Index(i))...)
	}
	return errs
}

func validateToleration(t *resourcev1.DeviceToleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		for _, msg := range validation.IsValidLabelValue(t.Value) {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, msg))
		}
	case "":
		errs = append(errs, field.Required(at.Child("operator"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, validateEffect(t.Effect, at.Child("effect"))...)
	}
	return errs
}

func validateEffect(e resourcev1.DeviceTaintEffect, at *field.Path) field.ErrorList {
	switch e {
	case resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone:
		return nil
	case "":
		return field.ErrorList{field.Required(at, "")}
	}
	return field.ErrorList{field.NotSupported(at, e, []resourcev1.DeviceTaintEffect{
		resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone})}
}

func validateConstraint(c *resourcev1.DeviceConstraint, names sets.Set[string], at *field.Path) field.ErrorList {
	errs := validateNames(c.Requests, names, at.Child("requests"))
	given := 0
	for name, attribute := range map[string]*resourcev1.FullyQualifiedName{"matchAttribute": c.MatchAttribute, "distinctAttribute": c.DistinctAttribute} {
		if attribute != nil {
			given++
			errs = append(errs, validateFullName(string(*attribute), at.Child(name))...)
		}
	}
	if given != 1 {
		errs = append(errs, field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	}
	return errs
}

// validateFullName checks the name of an attribute with its domain.
func validateFullName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "name required")}
	}
	if !strings.Contains(name, "/") {
		return field.ErrorList{field.Invalid(at, name, "a fully qualified name must be a domain and a name separated by a slash")}
	}
	return validateQualifiedName(name, at)
}

// validateQualifiedName checks the name of an attribute or capacity, whose domain may be left out.
func validateQualifiedName(name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	domain, id, ok := strings.Cut(name, "/")
	if !ok {
		domain, id = "", name
	} else if domain == "" {
		errs = append(errs, field.Invalid(at, "", "the domain must not be empty"))
	}
	if domain != "" {
		if len(domain) > resourcev1.DeviceMaxDomainLength {
			errs = append(errs, field.TooLong(at, "", resourcev1.DeviceMaxDomainLength))
		}
		for _, msg := range validation.IsDNS1123Subdomain(domain) {
			errs = append(errs, field.Invalid(at, domain, msg))
		}
	}
	if id == "" {
		return append(errs, field.Required(at, "the name must not be empty"))
	}
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(at, "", resourcev1.DeviceMaxIDLength))
	}
	for _, msg := range validation.IsCIdentifier(id) {
		errs = append(errs, field.Invalid(at, id, msg))
	}
	return errs
}

// device names an allocated device.
type device struct{ driver, pool, name, share string }

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	at := field.NewPath("status")
	var errs field.ErrorList
	names := sets.New[string]()
	for _, r := range c.Spec.Devices.Requests {
		names.Insert(r.Name)
		for _, s := range r.FirstAvailable {
			names.Insert(r.Name + "/" + s.Name)
		}
	}
	allocated := sets.New[device]()
	if a := c.Status.Allocation; a != nil {
		for i, r := range a.Devices.Results {
			p := at.Child("allocation", "devices", "results").Index(i)
			for part := range strings.SplitSeq(r.Request, "/") {
				errs = append(errs, validateLabel(part, p.Child("request"))...)
			}
			if !names.Has(r.Request) {
				errs = append(errs, field.Invalid(p.Child("request"), r.Request, unknownRequest))
			}
			errs = append(errs, validateDriver(r.Driver, p.Child("driver"))...)
			errs = append(errs, validatePool(r.Pool, p.Child("pool"))...)
			errs = append(errs, validateLabel(r.Device, p.Child("device"))...)
			d := device{r.Driver, r.Pool, r.Device, ""}
			if r.ShareID != nil {
				d.share = string(*r.ShareID)
			}
			allocated.Insert(d)
		}
		errs = append(errs, validateAllocation(a, names, at.Child("allocation"))...)
	}
	if old.Status.Allocation != nil && c.Status.Allocation != nil && len(old.Status.ReservedFor) > 0 {
		errs = append(errs, apivalidation.ValidateImmutableField(c.Status.Allocation, old.Status.Allocation, at.Child("allocation"))...)
	}
	errs = append(errs, validateReserved(c, at.Child("reservedFor"))...)
	return append(errs, validateDevices(c.Status.Devices, allocated, at.Child("devices"))...)
}

func validateAllocation(a *resourcev1.AllocationResult, names sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(a.Devices.Results); n > resourcev1.AllocationResultsMaxSize {
		errs = append(errs, field.TooMany(at.Child("devices", "results"), n, resourcev1.AllocationResultsMaxSize))
	}
	for i := range a.Devices.Config {
		config, p := &a.Devices.Config[i], at.Child("devices", "config").Index(i)
		switch config.Source {
		case resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass:
		case "":
			errs = append(errs, field.Required(p.Child("source"), ""))
		default:
			errs = append(errs, field.NotSupported(p.Child("source"), config.Source,
				[]resourcev1.AllocationConfigSource{resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass}))
		}
		errs = append(errs, validateNames(config.Requests, names, p.Child("requests"))...)
		errs = append(errs, validateConfig(&config.DeviceConfiguration, p)...)
	}
	if a.NodeSelector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(a.NodeSelector, at.Child("nodeSelector"))...)
	}
	return errs
}

func validateReserved(c *resourcev1.ResourceClaim, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n := len(c.Status.ReservedFor); n > resourcev1.ResourceClaimReservedForMaxSize {
		errs = append(errs, field.TooMany(at, n, resourcev1.ResourceClaimReservedForMaxSize))
	}
	seen := sets.New[string]()
	for i, r := range c.Status.ReservedFor {
		p := at.Index(i)
		for name, v := range map[string]string{"resource": r.Resource, "name": r.Name, "uid": string(r.UID)} {
			if v == "" {
				errs = append(errs, field.Required(p.Child(name), ""))
			}
		}
		if seen.Has(string(r.UID)) {
			errs = append(errs, field.Duplicate(p, r.UID))
		}
		seen.Insert(string(r.UID))
	}
	if len(c.Status.ReservedFor) > 0 && c.Status.Allocation == nil {
		errs = append(errs, field.Forbidden(at, "may not be specified when `allocated` is not set"))
	}
	return errs
}

func validateDevices(list []resourcev1.AllocatedDeviceStatus, allocated sets.Set[device], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[device]()
	for i := range list {
		d, p := &list[i], at.Index(i)
		id := device{d.Driver, d.Pool, d.Device, ""}
		if d.ShareID != nil {
			id.share = *d.ShareID
		}
		if seen.Has(id) {
			errs = append(errs, field.Duplicate(p, *d))
		}
		seen.Insert(id)
		errs = append(errs, validateDriver(d.Driver, p.Child("driver"))...)
		errs = append(errs, validatePool(d.Pool, p.Child("pool"))...)
		errs = append(errs, validateLabel(d.Device, p.Child("device"))...)
		if !allocated.Has(id) {
			errs = append(errs, field.Invalid(p, *d, "must be an allocated device in the claim"))
		}
		if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
			errs = append(errs, field.TooMany(p.Child("conditions"), n, resourcev1.AllocatedDeviceStatusMaxConditions))
		}
		errs = append(errs, metav1validation.ValidateConditions(d.Conditions, p.Child("conditions"))...)
		if d.Data != nil {
			errs = append(errs, validateRaw(d.Data, false, resourcev1.AllocatedDeviceStatusDataMaxLength, p.Child("data"))...)
		}
		if d.NetworkData != nil {
			errs = append(errs, validateNetwork(d.NetworkData, p.Child("networkData"))...)
		}
	}
	return errs
}

func validateNetwork(n *resourcev1.NetworkDeviceData, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(at.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(at.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	ips := at.Child("ips")
	if len(n.IPs) > resourcev1.NetworkDeviceDataMaxIPs {
		errs = append(errs, field.TooMany(ips, len(n.IPs), resourcev1.NetworkDeviceDataMaxIPs))
	}
	seen := sets.New[string]()
	for i, ip := range n.IPs {
		if seen.Has(ip) {
			errs = append(errs, field.Duplicate(ips.Index(i), ip))
			continue
		}
		seen.Insert(ip)
		prefix, err := netip.ParsePrefix(ip)
		switch {
		case err != nil:
			errs = append(errs, field.Invalid(ips.Index(i), ip, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"))
		case prefix.String() != ip:
			errs = append(errs, field.Invalid(ips.Index(i), ip, "must be in canonical form ("+prefix.String()+")"))
		}
	}
	return errs
}
