package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claimGrace is how old a claim without a service must be to be called left
// over: its service may be about to be written, by another server too. Tests shorten it.
var claimGrace = time.Minute

// repairEvery is how long after a repair that found all in order the next one
// is due. It is made by the first claim from then on: nothing polls. Tests shorten it.
var repairEvery = 10 * time.Minute

// repair brings claims and services together: before the first claim, and, when it is due, with a later one.
func (a *allocator) repair(ctx context.Context) error {
	switch due := a.due.Load(); {
	case due == 0:
		a.mu.Lock()
	case time.Now().UnixNano() < due || !a.mu.TryLock(): // another claim does it
		return nil
	}
	defer a.mu.Unlock()
	due := a.due.Load()
	if time.Now().UnixNano() < due {
		return nil
	}
	clean, err := a.repairAll(clusterWide(context.WithoutCancel(ctx)))
	if err != nil && due == 0 {
		return err
	}
	next := claimGrace // to look again at what is too young, or has failed
	if err == nil && clean {
		next = repairEvery
	}
	a.due.Store(time.Now().Add(next).UnixNano())
	return nil
}

// repairAll gives back what no service has, and claims what services have
// unclaimed. It says whether all was in order.
func (a *allocator) repairAll(ctx context.Context) (clean bool, err error) {
	// The claims first: the service of each that is not young is written by the time that services are listed.
	list, err := a.ipStore().List(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	obj, err := a.store.List(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("list services: %w", err)
	}
	all := obj.(*corev1.ServiceList).Items
	claims := map[string]*networkingv1.IPAddress{}
	for i := range list.(*networkingv1.IPAddressList).Items {
		c := &list.(*networkingv1.IPAddressList).Items[i]
		claims[c.Name] = c
	}
	owners := map[string][]types.NamespacedName{}
	clean = true
	for i := range all {
		ok, err := a.repairService(ctx, &all[i], claims, owners)
		if err != nil {
			return false, err
		}
		clean = clean && ok
	}
	for _, c := range claims {
		if len(owners[c.Name]) == 0 && c.Labels[networkingv1.LabelManagedBy] == ipManager {
			clean = false
			a.dropLeaked(ctx, c)
		}
	}
	if a.suspects, err = a.ports.repair(ctx, all, a.suspects); err != nil {
		return false, fmt.Errorf("bring node ports in order: %w", err)
	}
	clean = clean && !slices.ContainsFunc(a.suspects, func(b byte) bool { return b != 0 })
	return clean, a.finishRanges(ctx)
}

// repairService sees to the claims of one service, and notes in owners whose each is.
func (a *allocator) repairService(ctx context.Context, s *corev1.Service, claims map[string]*networkingv1.IPAddress, owners map[string][]types.NamespacedName) (clean bool, err error) {
	clean = true
	me := ownerOf(ctx, s)
	for _, ip := range addresses(s) {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			a.tell(ctx, s, "ClusterIPNotValid", fmt.Sprintf("Cluster IP %s is not a valid IP; please recreate Service", ip))
			continue
		}
		ranges, err := a.ranges(ctx, family(addr))
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) && claims[ip] == nil {
			a.tell(ctx, s, "ClusterIPOutOfRange", fmt.Sprintf("Cluster IP [%s]: %s is not within any configured Service CIDR; please recreate Service", family(addr), addr))
			continue
		}
		owners[ip] = append(owners[ip], me)
		if len(owners[ip]) > 1 {
			a.tell(ctx, s, "ClusterIPAlreadyAllocated", fmt.Sprintf("Cluster IP [%s]: %s was assigned to multiple services; please recreate Service", family(addr), addr))
			continue
		}
		reason, message := "ClusterIPNotAllocated", fmt.Sprintf("Cluster IP [%s]: %s is not allocated; repairing", family(addr), addr)
		if c := claims[ip]; c != nil {
			if refersTo(c, me) || a.owned(ctx, c) {
				continue
			}
			reason, message = "IPAddressWrongReference", fmt.Sprintf("IPAddress: %s for Service %s/%s has a wrong reference; repairing", ip, me.Namespace, me.Name)
			a.dropClaim(ctx, ip, func(now *networkingv1.IPAddress) bool { return now.UID == c.UID })
		}
		clean = false
		switch err := a.claimIP(ctx, s, addr, false); {
		case err == nil:
			a.tell(ctx, s, reason, message)
		case !apierrors.IsAlreadyExists(err): // otherwise the service was being written
			return false, fmt.Errorf("claim address %s of service %s: %w", ip, me, err)
		}
	}
	return clean, nil
}

// owned says whether the service that a claim names has the address.
func (a *allocator) owned(ctx context.Context, c *networkingv1.IPAddress) bool {
	ref := c.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return ref != nil // other kinds are left to those who made the claim
	}
	s, err := a.service(ctx, ref.Namespace, ref.Name)
	return err == nil && slices.Contains(addresses(s), c.Name)
}

// dropLeaked deletes a claim whose service never came, or is gone.
func (a *allocator) dropLeaked(ctx context.Context, c *networkingv1.IPAddress) {
	ref := c.Spec.ParentRef
	if time.Since(c.CreationTimestamp.Time) <= claimGrace || ref == nil {
		return
	}
	a.tellOf(ctx, corev1.ObjectReference{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress", Name: c.Name, UID: c.UID},
		"IPAddressNotAllocated", fmt.Sprintf("IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", c.Name, ref.Namespace, ref.Name))
	a.dropClaim(ctx, c.Name, func(now *networkingv1.IPAddress) bool { return now.UID == c.UID })
}

func (a *allocator) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	obj, err := a.store.Get(inNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("service %s/%s is a %T", namespace, name, obj)
	}
	return s, nil
}
