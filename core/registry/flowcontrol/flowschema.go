package flowcontrol

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"keelson.dev/keelson/core/registry/resource"
)

// defaultPrecedence is the matching precedence of a schema that names none.
const defaultPrecedence = 1000

var flowSchemas = &resource.Definition[*flowcontrolv1.FlowSchema]{
	GroupVersion: version, Kind: "FlowSchema", Plural: "flowschemas", Singular: "flowschema", ClusterScoped: true,
	New:     func() *flowcontrolv1.FlowSchema { return &flowcontrolv1.FlowSchema{} },
	NewList: func() runtime.Object { return &flowcontrolv1.FlowSchemaList{} },
	Spec:    func(s *flowcontrolv1.FlowSchema) any { return &s.Spec },
	Status:  func(s *flowcontrolv1.FlowSchema) any { return &s.Status },
	Default: func(s *flowcontrolv1.FlowSchema) {
		if s.Spec.MatchingPrecedence == 0 {
			s.Spec.MatchingPrecedence = defaultPrecedence
		}
	},
	Validate: validateFlowSchema,
	ValidateStatus: func(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
		return validateConditions(s.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) string { return string(c.Type) })
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("PriorityLevel", "string", "The priority level of its requests."),
		resource.Column("MatchingPrecedence", "string", "Schemas with lower numbers are asked first."),
		resource.Column("DistinguisherMethod", "string", "By what requests are told apart into flows."),
		resource.AgeColumn,
		resource.Column("MissingPL", "string", "Whether the priority level does not exist."),
	},
	Row: flowSchemaRow,
}

// validateConditions demands a type of each condition of a status, and each type once.
func validateConditions[T any](conditions []T, typeOf func(T) string) field.ErrorList {
	at := field.NewPath("status", "conditions")
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, c := range conditions {
		kind := typeOf(c)
		if kind == "" {
			errs = append(errs, field.Required(at.Index(i).Child("type"), ""))
		}
		if seen[kind] {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), kind))
		}
		seen[kind] = true
	}
	return errs
}

func flowSchemaRow(s *flowcontrolv1.FlowSchema) []any {
	method, dangling := "<none>", "?"
	if m := s.Spec.DistinguisherMethod; m != nil {
		method = string(m.Type)
	}
	for _, c := range s.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			dangling = string(c.Status)
		}
	}
	return []any{s.Name, s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, resource.Age(s), dangling}
}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	precedence := spec.Child("matchingPrecedence")
	switch n := s.Spec.MatchingPrecedence; {
	case n <= 0:
		errs = append(errs, field.Invalid(precedence, n, "must be a positive value"))
	case n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(precedence, n, "must not be greater than 10000"))
	case n == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.Spec.DistinguisherMethod; m != nil && m.Type != flowcontrolv1.FlowDistinguisherMethodByUserType && m.Type != flowcontrolv1.FlowDistinguisherMethodByNamespaceType {
		errs = append(errs, field.NotSupported(spec.Child("distinguisherMethod", "type"), struct{ Type string }{string(m.Type)},
			[]flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}))
	}
	level := spec.Child("priorityLevelConfiguration", "name")
	if name := s.Spec.PriorityLevelConfiguration.Name; name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		for _, msg := range apivalidation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(level, name, msg))
		}
	}
	for i := range s.Spec.Rules {
		errs = append(errs, validateRules(&s.Spec.Rules[i], spec.Child("rules").Index(i))...)
	}
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == s.Name && !apiequality.Semantic.DeepEqual(&fixed.Spec, &s.Spec) {
			errs = append(errs, field.Invalid(spec, s.Spec, "spec of '"+s.Name+"' must equal the fixed value"))
		}
	}
	return errs
}

func validateRules(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i, rule := range r.NonResourceRules {
		p := at.Child("nonResourceRules").Index(i)
		errs = append(errs, validateVerbs(rule.Verbs, p.Child("verbs"))...)
		urls := p.Child("nonResourceURLs")
		switch {
		case len(rule.NonResourceURLs) == 0:
			errs = append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
		case slices.Contains(rule.NonResourceURLs, flowcontrolv1.NonResourceAll):
			errs = append(errs, alone(rule.NonResourceURLs, "non-resource URLs", urls)...)
		default:
			for j, u := range rule.NonResourceURLs {
				if msg := faultOfURL(u); msg != "" {
					errs = append(errs, field.Invalid(urls.Index(j), u, msg))
				}
			}
		}
	}
	return errs
}

// validateSubject checks that exactly the part that the kind names is given.
func validateSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	part := func(kind flowcontrolv1.SubjectKind, name string, given bool, check func() field.ErrorList) {
		switch p := at.Child(name); {
		case given && s.Kind != kind:
			errs = append(errs, field.Forbidden(p, name+" is forbidden when subject kind is not '"+string(kind)+"'"))
		case !given && s.Kind == kind:
			errs = append(errs, field.Required(p, name+" is required when subject kind is '"+string(kind)+"'"))
		case given:
			errs = append(errs, check()...)
		}
	}
	switch s.Kind {
	case flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser, flowcontrolv1.SubjectKindGroup:
	default:
		return field.ErrorList{field.NotSupported(at.Child("kind"), s.Kind,
			[]flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser})}
	}
	named := func(name string, p *field.Path) field.ErrorList {
		if name == "" {
			return field.ErrorList{field.Required(p.Child("name"), "")}
		}
		return nil
	}
	part(flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func() field.ErrorList {
		return validateServiceAccount(s.ServiceAccount, at.Child("serviceAccount"))
	})
	part(flowcontrolv1.SubjectKindUser, "user", s.User != nil, func() field.ErrorList { return named(s.User.Name, at.Child("user")) })
	part(flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func() field.ErrorList { return named(s.Group.Name, at.Child("group")) })
	return errs
}

func validateServiceAccount(s *flowcontrolv1.ServiceAccountSubject, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	} else if s.Name != flowcontrolv1.NameAll {
		for _, msg := range apivalidation.ValidateServiceAccountName(s.Name, false) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, msg))
		}
	}
	if s.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), "must specify namespace for service account"))
	}
	for _, msg := range apivalidation.ValidateNamespaceName(s.Namespace, false) {
		errs = append(errs, field.Invalid(at.Child("namespace"), s.Namespace, msg))
	}
	return errs
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, at.Child("verbs"))
	list := func(values []string, child, one, many string) {
		if len(values) == 0 {
			errs = append(errs, field.Required(at.Child(child), "resource rules must supply at least one "+one))
			return
		}
		errs = append(errs, alone(values, many, at.Child(child))...)
	}
	list(r.APIGroups, "apiGroups", "api group", "api groups")
	list(r.Resources, "resources", "resource", "resources")
	namespaces := at.Child("namespaces")
	switch {
	case len(r.Namespaces) == 0 && !r.ClusterScope:
		errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	case slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery):
		errs = append(errs, alone(r.Namespaces, "namespaces", namespaces)...)
	default:
		for i, ns := range r.Namespaces {
			for _, msg := range validation.IsDNS1123Label(ns) {
				errs = append(errs, field.Invalid(namespaces.Index(i), ns, "each member of this list must be '*' or a DNS-1123 label; "+msg))
			}
		}
	}
	return errs
}

var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

func validateVerbs(list []string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "verbs must contain at least one value")}
	}
	if slices.Contains(list, flowcontrolv1.VerbAll) {
		return alone(list, "verbs", at)
	}
	for _, v := range list {
		if !slices.Contains(verbs, v) {
			return field.ErrorList{field.NotSupported(at, list, verbs)}
		}
	}
	return nil
}

// alone checks that the value that means all stands alone.
func alone(list []string, what string, at *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func faultOfURL(u string) string {
	switch {
	case u == "":
		return "must not be empty"
	case u == "/":
		return ""
	case !strings.HasPrefix(u, "/"):
		return "must start with slash"
	case strings.Contains(u, " "):
		return "must not contain white-space"
	case strings.Contains(u, "//"):
		return "must not contain double slash"
	case strings.Contains(strings.TrimSuffix(u, "/*"), "*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
