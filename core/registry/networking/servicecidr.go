package networking

import (
	"context"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	netutils "k8s.io/utils/net"

	"keelson.dev/keelson/core/registry/resource"
)

var serviceCIDRs = &resource.Definition[*networkingv1.ServiceCIDR]{
	GroupVersion: version, Kind: "ServiceCIDR", Plural: "servicecidrs", Singular: "servicecidr", ClusterScoped: true,
	New:     func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
	NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
	Status:  func(c *networkingv1.ServiceCIDR) any { return &c.Status },
	PrepareCreate: func(_ context.Context, c *networkingv1.ServiceCIDR) {
		// The allocator reads ranges from the store: one that is stored is ready.
		c.Status.Conditions = []metav1.Condition{{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
			LastTransitionTime: metav1.Now(), Message: "Kubernetes Service CIDR is ready"}}
		if !slices.Contains(c.Finalizers, resource.ServiceCIDRFinalizer) {
			c.Finalizers = append(c.Finalizers, resource.ServiceCIDRFinalizer)
		}
	},
	PrepareStatus: func(_ context.Context, c, old *networkingv1.ServiceCIDR) { c.Spec = old.Spec },
	Validate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
		return validateCIDRs(c.Spec.CIDRs, field.NewPath("spec", "cidrs"))
	},
	SkipValidateOnUpdate: true,
	ValidateUpdate:       validateCIDRUpdate,
	ValidateStatus: func(c, _ *networkingv1.ServiceCIDR) field.ErrorList {
		return metav1validation.ValidateConditions(c.Status.Conditions, field.NewPath("status", "conditions"))
	},
	Columns: []metav1.TableColumnDefinition{resource.NameColumn, resource.Column("CIDRs", "string", "The ranges."), resource.AgeColumn},
	Row: func(c *networkingv1.ServiceCIDR) []any {
		return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), resource.Age(c)}
	},
	Wrap: func(env *resource.Env, s *resource.Store) rest.Storage { return &serviceCIDRREST{s, env} },
}

// serviceCIDRREST looks, when a range is deleted, whether it is needed.
type serviceCIDRREST struct {
	*resource.Store
	env *resource.Env
}

var (
	_ rest.GracefulDeleter   = (*serviceCIDRREST)(nil)
	_ rest.CollectionDeleter = (*serviceCIDRREST)(nil)
)

// Delete implements rest.GracefulDeleter.
func (r *serviceCIDRREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, gone, err := r.Store.Delete(ctx, name, validate, options)
	if err == nil && !gone {
		r.env.Addresses.Freed(ctx, nil)
	}
	return obj, gone, err
}

// DeleteCollection implements rest.CollectionDeleter.
func (r *serviceCIDRREST) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *metainternal.ListOptions) (runtime.Object, error) {
	obj, err := r.Store.DeleteCollection(ctx, validate, options, list)
	r.env.Addresses.Freed(ctx, nil)
	return obj, err
}

func validateCIDRs(cidrs []string, at *field.Path) field.ErrorList {
	const maxRanges = 2 // one of each family
	if len(cidrs) == 0 {
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	}
	var errs field.ErrorList
	if len(cidrs) > maxRanges {
		errs = append(errs, field.Invalid(at, networkingv1.ServiceCIDRSpec{CIDRs: cidrs}, "may only hold up to 2 values"))
	}
	if dual, err := netutils.IsDualStackCIDRStrings(cidrs); len(cidrs) == maxRanges && err == nil && !dual {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	return errs
}

// validateCIDRUpdate lets a range of the other family be added, nothing else.
func validateCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	now, was := c.Spec.CIDRs, old.Spec.CIDRs
	switch {
	case slices.Equal(now, was):
		return nil
	case len(was) == 1 && len(now) == 2:
		errs := validateCIDRs(now, at)
		if now[0] != was[0] {
			errs = append(errs, field.Invalid(at.Index(0), now[0], "field is immutable"))
		}
		return errs
	case len(now) == len(was):
		var errs field.ErrorList
		for i := range now {
			if now[i] != was[i] {
				errs = append(errs, field.Invalid(at.Index(i), now[i], "field is immutable"))
			}
		}
		return errs
	}
	return field.ErrorList{field.Invalid(at, now, "field is immutable")}
}
