package keelson

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	keelsonv1alpha1 "keelson.dev/keelson/proto/api/v1alpha1"
)

var checksum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// decidingKinds are the kinds of which there may be a shadow.
var decidingKinds = []string{"admission", "scheduler"}

// What limits have to be, at least: with less no program starts.
const (
	leastMemory   = 8 << 20
	leastMilliCPU = 10
	leastPids     = 16
	// longestWatch is a day, in seconds.
	longestWatch = 24 * 60 * 60
	// defaultWatch is how long a replaced process is kept, in seconds.
	defaultWatch = 30
)

func setDefaults(p *keelsonv1alpha1.Plugin) {
	if p.Spec.Enabled == nil {
		yes := true
		p.Spec.Enabled = &yes
	}
	defaultSource(&p.Spec.Source)
	if p.Spec.Swap == nil {
		p.Spec.Swap = &keelsonv1alpha1.PluginSwapPolicy{}
	}
	if p.Spec.Swap.WatchSeconds == nil {
		watch := int32(defaultWatch)
		p.Spec.Swap.WatchSeconds = &watch
	}
	if p.Spec.Shadow != nil {
		defaultSource(&p.Spec.Shadow.Source)
	}
}

func defaultSource(s *keelsonv1alpha1.PluginSource) {
	if *s == (keelsonv1alpha1.PluginSource{}) {
		s.BuiltIn = true
	}
	if s.Program != "" && s.Path == "" {
		s.BuiltIn = true
	}
}

func validate(p *keelsonv1alpha1.Plugin) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if p.Spec.Kind == "" {
		errs = append(errs, field.Required(spec.Child("kind"), "name the contract that the plugin fulfils, such as runtime or dns"))
	} else {
		for _, msg := range apivalidation.NameIsDNSLabel(p.Spec.Kind, false) {
			errs = append(errs, field.Invalid(spec.Child("kind"), p.Spec.Kind, msg))
		}
	}
	switch p.Spec.Scope {
	case "", keelsonv1alpha1.PluginScopeCluster, keelsonv1alpha1.PluginScopeNode:
	default:
		errs = append(errs, field.NotSupported(spec.Child("scope"), p.Spec.Scope, []keelsonv1alpha1.PluginScope{keelsonv1alpha1.PluginScopeCluster, keelsonv1alpha1.PluginScopeNode}))
	}
	errs = append(errs, validateProgram(p.Spec.Source, p.Spec.Args, p.Spec.Config, spec)...)
	errs = append(errs, validateRules(p.Spec.Rules, spec.Child("rules"))...)
	if r := p.Spec.Resources; r != nil && r.Limits != nil {
		errs = append(errs, validateLimits(r.Limits, spec.Child("resources", "limits"))...)
	}
	if s := p.Spec.Swap; s != nil && s.WatchSeconds != nil && (*s.WatchSeconds < 0 || *s.WatchSeconds > longestWatch) {
		errs = append(errs, field.Invalid(spec.Child("swap", "watchSeconds"), *s.WatchSeconds, "must be between 0 and 86400, inclusive"))
	}
	if s := p.Spec.Shadow; s != nil {
		errs = append(errs, validateProgram(s.Source, s.Args, s.Config, spec.Child("shadow"))...)
		if len(apivalidation.NameIsDNSLabel(p.Spec.Kind, false)) == 0 && !slices.Contains(decidingKinds, p.Spec.Kind) {
			errs = append(errs, field.Forbidden(spec.Child("shadow"), fmt.Sprintf("a plugin of kind %q decides nothing that could be compared: only those of the kinds %s may have a shadow",
				p.Spec.Kind, strings.Join(decidingKinds, " and "))))
		}
	}
	return errs
}

// validateProgram checks what is executed, with what.
func validateProgram(s keelsonv1alpha1.PluginSource, args []string, config *runtime.RawExtension, at *field.Path) field.ErrorList {
	errs := validateSource(s, at.Child("source"))
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			errs = append(errs, field.Invalid(at.Child("args").Index(i), a, "must not contain a zero byte"))
		}
	}
	if config != nil && len(config.Raw) > 0 {
		if err := json.Unmarshal(config.Raw, &map[string]any{}); err != nil {
			errs = append(errs, field.Invalid(at.Child("config"), string(config.Raw), "must be an object: "+err.Error()))
		}
	}
	return errs
}

func validateSource(s keelsonv1alpha1.PluginSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case s.BuiltIn && s.Path != "":
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "may not be set when `builtIn` is true"))
	case s.BuiltIn && s.SHA256 != "":
		errs = append(errs, field.Invalid(at.Child("sha256"), s.SHA256, "may not be set when `builtIn` is true"))
	case !s.BuiltIn && s.Path == "":
		errs = append(errs, field.Required(at.Child("path"), "must be set when `builtIn` is false"))
	case !s.BuiltIn && (!path.IsAbs(s.Path) || path.Clean(s.Path) != s.Path || strings.ContainsRune(s.Path, 0)):
		errs = append(errs, field.Invalid(at.Child("path"), s.Path, "must be an absolute path without . or .."))
	}
	if !s.BuiltIn && s.Path != "" && s.SHA256 == "" {
		errs = append(errs, field.Required(at.Child("sha256"), "must be set with `path`: the kernel starts no executable that it cannot check"))
	}
	if s.Program != "" && !s.BuiltIn {
		errs = append(errs, field.Invalid(at.Child("program"), s.Program, "may not be set with `path`: it names a built-in program"))
	} else if s.Program != "" {
		for _, msg := range apivalidation.NameIsDNSLabel(s.Program, false) {
			errs = append(errs, field.Invalid(at.Child("program"), s.Program, msg))
		}
	}
	if s.SHA256 != "" && !checksum.MatchString(s.SHA256) {
		errs = append(errs, field.Invalid(at.Child("sha256"), s.SHA256, "must be 64 lower case hexadecimal digits, as sha256sum prints them"))
	}
	return errs
}

// validateRules holds the accepted rules to what a ClusterRole may have.
func validateRules(rules []rbacv1.PolicyRule, list *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		at := list.Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if len(r.APIGroups) > 0 || len(r.Resources) > 0 || len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

func validateLimits(l *keelsonv1alpha1.PluginLimits, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m := l.Memory; m != nil && m.CmpInt64(leastMemory) < 0 {
		errs = append(errs, field.Invalid(at.Child("memory"), m.String(), "must be at least 8Mi"))
	}
	if c := l.CPU; c != nil && c.Cmp(*apiresource.NewMilliQuantity(leastMilliCPU, apiresource.DecimalSI)) < 0 {
		errs = append(errs, field.Invalid(at.Child("cpu"), c.String(), "must be at least 10m"))
	}
	if n := l.Pids; n != nil && *n < leastPids {
		errs = append(errs, field.Invalid(at.Child("pids"), *n, "must be at least 16"))
	}
	return errs
}
