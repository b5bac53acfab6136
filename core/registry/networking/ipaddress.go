package networking

import (
	"context"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/dryrun"

	"keelson.dev/keelson/core/registry/resource"
)

var ipAddresses = &resource.Definition[*networkingv1.IPAddress]{
	GroupVersion: version, Kind: "IPAddress", Plural: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"}, ClusterScoped: true,
	New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
	NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
	Name: func(name string, _ bool) []string {
		var msgs []string
		for _, err := range validation.IsValidIP(nil, name) {
			msgs = append(msgs, err.Detail)
		}
		return msgs
	},
	Validate: func(a *networkingv1.IPAddress) field.ErrorList {
		at := field.NewPath("spec", "parentRef")
		ref := a.Spec.ParentRef
		if ref == nil {
			return field.ErrorList{field.Required(at, "")}
		}
		var errs field.ErrorList
		if ref.Group != "" {
			errs = append(errs, invalid(at.Child("group"), ref.Group, validation.IsDNS1123Subdomain(ref.Group))...)
		}
		errs = append(errs, validateSegment(ref.Resource, at.Child("resource"))...)
		errs = append(errs, validateSegment(ref.Name, at.Child("name"))...)
		if ref.Namespace != "" {
			errs = append(errs, invalid(at.Child("namespace"), ref.Namespace, content.IsPathSegmentName(ref.Namespace))...)
		}
		return errs
	},
	ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
		return apivalidation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))
	},
	Setup: func(env *resource.Env, s *resource.Store) error {
		s.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
			if options == nil || !dryrun.IsDryRun(options.DryRun) {
				env.Addresses.Freed(context.Background(), obj.(*networkingv1.IPAddress)) // the hook is given no context
			}
		}
		return nil
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("ParentRef", "string", "Who has the address."), resource.AgeColumn},
	Row: func(a *networkingv1.IPAddress) []any {
		owner := "<none>"
		if ref := a.Spec.ParentRef; ref != nil {
			owner = strings.Trim(ref.Resource+"."+ref.Group, ".") + "/" + strings.TrimPrefix(ref.Namespace+"/"+ref.Name, "/")
		}
		return []any{a.Name, owner, resource.Age(a)}
	},
}
