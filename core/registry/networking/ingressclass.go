package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

var ingressClasses = &resource.Definition[*networkingv1.IngressClass]{
	GroupVersion: version, Kind: "IngressClass", Plural: "ingressclasses", Singular: "ingressclass", ClusterScoped: true,
	New:     func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList: func() runtime.Object { return &networkingv1.IngressClassList{} },
	Spec:    func(c *networkingv1.IngressClass) any { return &c.Spec },
	Default: func(c *networkingv1.IngressClass) {
		if p := c.Spec.Parameters; p != nil && p.Scope == nil {
			scope := networkingv1.IngressClassParametersReferenceScopeCluster
			p.Scope = &scope
		}
	},
	Validate: func(c *networkingv1.IngressClass) field.ErrorList {
		errs := validateIngressController(c.Spec.Controller, field.NewPath("spec", "controller"))
		if c.Spec.Parameters != nil {
			errs = append(errs, validateParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))...)
		}
		return errs
	},
	ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
		return apivalidation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("Controller", "string", "Who serves it."),
		resource.Column("Parameters", "string", "Its parameters."), resource.AgeColumn},
	Row: func(c *networkingv1.IngressClass) []any {
		parameters := "<none>"
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		name := c.Name
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			name += " (default)"
		}
		return []any{name, c.Spec.Controller, parameters, resource.Age(c)}
	},
}

func validateIngressController(name string, at *field.Path) field.ErrorList {
	const maxLength = 250
	switch {
	case name == "":
		return field.ErrorList{field.Required(at, "")}
	case len(name) > maxLength:
		return field.ErrorList{field.TooLong(at, name, maxLength)}
	}
	return validation.IsDomainPrefixedPath(at, name)
}

func validateParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	errs := validateReference(&corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name}, at)
	if p.Scope == nil {
		return append(errs, field.Required(at.Child("scope"), ""))
	}
	namespace := at.Child("namespace")
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			return append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		}
		return append(errs, invalid(namespace, *p.Namespace, validation.IsDNS1123Label(*p.Namespace))...)
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("scope"), *p.Scope,
			[]string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	}
	return errs
}
