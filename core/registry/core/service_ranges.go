package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"keelson.dev/keelson/core/registry/resource"
)

// Cluster IPs come from the ranges that the server was started with and from
// those of ServiceCIDR objects (KEP-1880). A ServiceCIDR holds a finalizer; it
// goes when no address depends on it any more, which is looked at when it is
// deleted and whenever an address becomes free. Nothing polls.

// ranges gives the ranges of a family, the server's own first.
func (a *allocator) ranges(ctx context.Context, f corev1.IPFamily) ([]netip.Prefix, error) {
	var all []netip.Prefix
	if own := a.cidr(f); own != nil {
		all = append(all, *own)
	}
	objects, err := a.serviceCIDRs(ctx)
	if err != nil {
		return nil, err
	}
	for i := range objects {
		if objects[i].DeletionTimestamp != nil {
			continue
		}
		for _, p := range prefixes(&objects[i]) {
			if family(p.Addr()) == f && !slices.Contains(all, p) {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

func (a *allocator) serviceCIDRs(ctx context.Context) ([]networkingv1.ServiceCIDR, error) {
	list, err := a.env.Store(networkingv1.GroupName, "servicecidrs").List(clusterWide(ctx), nil)
	if err != nil {
		return nil, fmt.Errorf("list service ranges: %w", err)
	}
	return list.(*networkingv1.ServiceCIDRList).Items, nil
}

func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// holds says whether an address can be given out from a range.
func holds(p netip.Prefix, addr netip.Addr) bool {
	return p.Contains(addr) && addr != p.Masked().Addr() && !isBroadcast(p, addr)
}

// rangesText lists ranges in messages.
func rangesText(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// finishRanges lets the ranges go that are being deleted and that no address needs.
func (a *allocator) finishRanges(ctx context.Context) error {
	objects, err := a.serviceCIDRs(ctx)
	if err != nil || !slices.ContainsFunc(objects, func(c networkingv1.ServiceCIDR) bool { return c.DeletionTimestamp != nil }) {
		return err
	}
	used, err := a.usedIPs(ctx)
	if err != nil {
		return err
	}
	for i := range objects {
		c := &objects[i]
		if c.DeletionTimestamp == nil {
			continue
		}
		needed := false
		for addr := range used {
			needed = needed || needs(objects, c, addr)
		}
		if err := a.finishRange(ctx, c, needed); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete service range %s: %w", c.Name, err)
		}
	}
	return nil
}

// needs says whether an address lies in the range and in no other that stays.
func needs(all []networkingv1.ServiceCIDR, c *networkingv1.ServiceCIDR, addr netip.Addr) bool {
	in := func(o *networkingv1.ServiceCIDR) bool {
		return slices.ContainsFunc(prefixes(o), func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	if !in(c) {
		return false
	}
	for i := range all {
		if o := &all[i]; o.Name != c.Name && o.DeletionTimestamp == nil && in(o) {
			return false
		}
	}
	return true
}

// finishRange takes the finalizer off, or says why it stays.
func (a *allocator) finishRange(ctx context.Context, c *networkingv1.ServiceCIDR, needed bool) error {
	store := a.env.Store(networkingv1.GroupName, "servicecidrs")
	ctx = clusterWide(ctx)
	if !needed {
		change := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			now := old.(*networkingv1.ServiceCIDR).DeepCopy()
			now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool { return f == resource.ServiceCIDRFinalizer })
			return now, nil
		})
		_, _, err := store.Update(ctx, c.Name, change, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		return err
	}
	key, err := store.KeyFunc(ctx, c.Name)
	if err != nil {
		return err
	}
	return store.Storage.GuaranteedUpdate(ctx, key, &networkingv1.ServiceCIDR{}, false, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			now := obj.(*networkingv1.ServiceCIDR).DeepCopy()
			meta.SetStatusCondition(&now.Status.Conditions, metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady,
				Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
				Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"})
			return now, nil
		}), false, nil)
}

var _ resource.AddressKeeper = (*allocator)(nil)

// Freed implements resource.AddressKeeper. It is called when an address or a range was deleted, by whomever. An
// address that a service still has is claimed again.
func (a *allocator) Freed(ctx context.Context, address *networkingv1.IPAddress) {
	ctx = context.WithoutCancel(ctx)
	if address != nil {
		if _, own := a.releasing.Load(address.Name); !own {
			a.reclaim(ctx, address)
		}
	}
	// What fails here is tried again when the next address becomes free, and when the server starts.
	_ = a.finishRanges(ctx)
}

func (a *allocator) reclaim(ctx context.Context, address *networkingv1.IPAddress) {
	ref := address.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return
	}
	s, err := a.service(ctx, ref.Namespace, ref.Name)
	if err != nil || s.DeletionTimestamp != nil || !slices.Contains(addresses(s), address.Name) {
		return
	}
	addr, err := netip.ParseAddr(address.Name)
	if err != nil {
		return
	}
	if err := a.claimIP(ctx, s, addr, false); err == nil {
		a.tell(ctx, s, "ClusterIPNotAllocated", fmt.Sprintf("Cluster IP [%s]: %s is not allocated; repairing", family(addr), addr))
	}
}

// tell writes an event about a service. It is news only: a failure costs nothing.
func (a *allocator) tell(ctx context.Context, s *corev1.Service, reason, message string) {
	a.tellOf(ctx, corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: s.UID, ResourceVersion: s.ResourceVersion}, reason, message)
}

func (a *allocator) tellOf(ctx context.Context, about corev1.ObjectReference, reason, message string) {
	now := metav1.Now()
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", about.Name, now.UnixNano()), Namespace: namespace},
		InvolvedObject: about,
		Reason:         reason, Message: message, Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: "ipallocator-repair-controller"},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	_, _ = a.env.Store("", "events").Create(inNamespace(ctx, namespace), event, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
}
