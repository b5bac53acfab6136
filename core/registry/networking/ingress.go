package networking

import (
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/keelson/core/registry/resource"
)

// annotationIngressClass named the class before there was a field for it.
const annotationIngressClass = "kubernetes.io/ingress.class"

var ingresses = &resource.Definition[*networkingv1.Ingress]{
	GroupVersion: version, Kind: "Ingress", Plural: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
	New:              func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList:          func() runtime.Object { return &networkingv1.IngressList{} },
	Spec:             func(i *networkingv1.Ingress) any { return &i.Spec },
	Status:           func(i *networkingv1.Ingress) any { return &i.Status },
	WarningsOnUpdate: func(_, _ *networkingv1.Ingress) []string { return nil },
	Warnings: func(i *networkingv1.Ingress) []string {
		if _, given := i.Annotations[annotationIngressClass]; given && i.Spec.IngressClassName == nil {
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", annotationIngressClass)}
		}
		return nil
	},
	Validate: func(in *networkingv1.Ingress) field.ErrorList {
		errs := validateIngress(&in.Spec)
		if class, ok := in.Annotations[annotationIngressClass]; ok && in.Spec.IngressClassName != nil && *in.Spec.IngressClassName != class {
			errs = append(errs, field.Invalid(field.NewPath("annotations").Child(annotationIngressClass), class, "must match `ingressClassName` when both are specified"))
		}
		return errs
	},
	// What the old annotation says matters only at first.
	SkipValidateOnUpdate: true,
	ValidateUpdate:       func(in, _ *networkingv1.Ingress) field.ErrorList { return validateIngress(&in.Spec) },
	ValidateStatus: func(in, _ *networkingv1.Ingress) field.ErrorList {
		return validateIngressAddresses(in.Status.LoadBalancer.Ingress, field.NewPath("status", "loadBalancer", "ingress"))
	},
	Columns: []metav1.TableColumnDefinition{
		resource.NameColumn,
		resource.Column("Class", "string", "The class, which tells who serves it."),
		resource.Column("Hosts", "string", "The hosts."),
		resource.Column("Address", "string", "Where it is served."),
		resource.Column("Ports", "string", "On which ports."),
		resource.AgeColumn,
	},
	Row: ingressRow,
}

func ingressRow(i *networkingv1.Ingress) []any {
	class, ports := "<none>", "80"
	if i.Spec.IngressClassName != nil {
		class = *i.Spec.IngressClassName
	}
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	const shown = 3
	var hosts, addresses []string
	for _, r := range i.Spec.Rules {
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	text := strings.Join(hosts, ",")
	if len(hosts) == 0 {
		text = "*"
	} else if len(hosts) > shown {
		text = fmt.Sprintf("%s + %d more...", strings.Join(hosts[:shown], ","), len(hosts)-shown)
	}
	for _, a := range i.Status.LoadBalancer.Ingress {
		if a.IP != "" {
			addresses = append(addresses, a.IP)
		} else {
			addresses = append(addresses, a.Hostname)
		}
	}
	return []any{i.Name, class, text, strings.Join(addresses, ","), ports, resource.Age(i)}
}
