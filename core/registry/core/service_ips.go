package core

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"keelson.dev/keelson/core/registry/resource"
)

const (
	// ipManager marks the claims of this allocator, as upstream's does.
	ipManager = "ipallocator.k8s.io"
	// randomTries is how often a random address is tried before all are looked through.
	randomTries = 32
)

func (a *allocator) ipStore() *resource.Store {
	return a.env.Store(networkingv1.GroupName, "ipaddresses")
}

// claimIPs claims the addresses that the service asks for, and one of each
// family that it has none of. It gives what was claimed, also with an error.
func (a *allocator) claimIPs(ctx context.Context, s, old *corev1.Service, dry bool) ([]string, error) {
	var had, claimed []string
	if old != nil {
		had = addresses(old)
	}
	ips := slices.Clone(s.Spec.ClusterIPs)
	if len(ips) > len(s.Spec.IPFamilies) { // fewer families than before: the second address goes
		ips = ips[:len(s.Spec.IPFamilies)]
	}
	for i, ip := range ips {
		if slices.Contains(had, ip) {
			continue
		}
		at := field.NewPath("spec", "clusterIPs").Index(i)
		if err := a.claimWanted(ctx, s, ip, s.Spec.IPFamilies[i], at, dry); err != nil {
			return claimed, err
		}
		if !dry {
			claimed = append(claimed, ip)
		}
	}
	for i := len(ips); i < len(s.Spec.IPFamilies); i++ {
		ip, err := a.claimAny(ctx, s, s.Spec.IPFamilies[i], dry)
		if err != nil {
			return claimed, err
		}
		if !dry {
			claimed = append(claimed, ip)
		}
		ips = append(ips, ip)
	}
	s.Spec.ClusterIPs, s.Spec.ClusterIP = ips, ips[0]
	return claimed, nil
}

// claimWanted claims an address that the service asks for.
func (a *allocator) claimWanted(ctx context.Context, s *corev1.Service, ip string, f corev1.IPFamily, at *field.Path, dry bool) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return invalidService(s, field.ErrorList{field.Invalid(at, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")})
	}
	if family(addr) != f {
		return invalidService(s, field.ErrorList{field.Invalid(at, ip, fmt.Sprintf("expected an %s value as indicated by `ipFamilies`", f))})
	}
	ranges, err := a.ranges(ctx, f)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	outside := func() error {
		return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ip, rangesText(ranges)))})
	}
	if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return holds(p, addr) }) {
		return outside()
	}
	err = a.claimKept(ctx, s, addr, dry)
	if errors.Is(err, errRangeEnded) {
		return outside()
	}
	if apierrors.IsAlreadyExists(err) {
		return invalidService(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip))})
	}
	return err
}

// claimAny claims a free address of the first range of the family that has one.
func (a *allocator) claimAny(ctx context.Context, s *corev1.Service, f corev1.IPFamily, dry bool) (string, error) {
	ranges, err := a.ranges(ctx, f)
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	for _, cidr := range ranges {
		ip, err := a.claimIn(ctx, s, cidr, dry)
		if errors.Is(err, errRangeEnded) {
			continue
		}
		if ip != "" || err != nil {
			return ip, err
		}
	}
	return "", apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: range is full (%s)", rangesText(ranges)))
}

// claimIn claims a free address of a range, empty if it has none: a random one
// of the upper part, so that the lower part is left for those who ask for an address.
func (a *allocator) claimIn(ctx context.Context, s *corev1.Service, cidr netip.Prefix, dry bool) (string, error) {
	size := rangeSize(cidr)
	low := staticPart(size)
	try := func(offset uint64) (string, bool, error) {
		addr := addOffset(cidr.Masked().Addr(), offset)
		err := a.claimKept(ctx, s, addr, dry)
		if apierrors.IsAlreadyExists(err) {
			return "", false, nil
		}
		return addr.String(), err == nil, err
	}
	for range randomTries {
		if size-low < 2 {
			break
		}
		if ip, ok, err := try(low + rand.Uint64N(size-low)); ok || err != nil {
			return ip, err
		}
	}
	used, err := a.usedIPs(ctx)
	if err != nil {
		return "", err
	}
	for i := range size { // from the upper part on, and round
		offset := (low + i) % size
		if offset == 0 || used[addOffset(cidr.Masked().Addr(), offset)] {
			continue
		}
		if ip, ok, err := try(offset); ok || err != nil {
			return ip, err
		}
	}
	return "", nil
}

// errRangeEnded says that the range of an address went while the address was claimed.
var errRangeEnded = errors.New("the range ends")

// claimKept is claimIP, and a look whether the address' range is still there:
// who lets a range go marks it first and looks for addresses then, so either
// that look finds the claim, or this one the mark.
func (a *allocator) claimKept(ctx context.Context, s *corev1.Service, addr netip.Addr, dry bool) error {
	if err := a.claimIP(ctx, s, addr, dry); err != nil {
		return err
	}
	if dry || slices.ContainsFunc(a.env.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return nil // the server's own ranges stay
	}
	ranges, err := a.ranges(ctx, family(addr))
	if err == nil && slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return nil
	}
	a.releaseIP(context.WithoutCancel(ctx), ownerOf(ctx, s), addr.String())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return errRangeEnded
}

// claimIP creates the object that says who has the address.
func (a *allocator) claimIP(ctx context.Context, s *corev1.Service, addr netip.Addr, dry bool) error {
	f, owner := string(family(addr)), ownerOf(ctx, s)
	claim := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: addr.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: f, networkingv1.LabelManagedBy: ipManager}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: owner.Namespace, Name: owner.Name}},
	}
	options := &metav1.CreateOptions{}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err := a.ipStore().Create(clusterWide(ctx), claim, rest.ValidateAllObjectFunc, options)
	return err
}

// errNotOwner ends the release of an address that somebody else has.
var errNotOwner = errors.New("the address belongs to another object")

// releaseIP gives an address of a service back.
func (a *allocator) releaseIP(ctx context.Context, owner types.NamespacedName, ip string) {
	a.dropClaim(ctx, ip, func(c *networkingv1.IPAddress) bool { return refersTo(c, owner) })
}

// dropClaim deletes a claim if it is as it should be at that moment.
func (a *allocator) dropClaim(ctx context.Context, ip string, still func(*networkingv1.IPAddress) bool) {
	a.releasing.Store(ip, true)
	defer a.releasing.Delete(ip)
	check := func(_ context.Context, obj runtime.Object) error {
		if c, ok := obj.(*networkingv1.IPAddress); !ok || !still(c) {
			return errNotOwner
		}
		return nil
	}
	// What cannot be released now is left for repair.
	_, _, _ = a.ipStore().Delete(clusterWide(ctx), ip, check, &metav1.DeleteOptions{})
}

// refersTo says whether a claim is one of the service.
func refersTo(c *networkingv1.IPAddress, owner types.NamespacedName) bool {
	ref := c.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == owner.Namespace && ref.Name == owner.Name
}

func (a *allocator) usedIPs(ctx context.Context) (map[netip.Addr]bool, error) {
	list, err := a.ipStore().List(clusterWide(ctx), nil)
	if err != nil {
		return nil, err
	}
	used := map[netip.Addr]bool{}
	for _, claim := range list.(*networkingv1.IPAddressList).Items {
		if addr, err := netip.ParseAddr(claim.Name); err == nil {
			used[addr] = true
		}
	}
	return used, nil
}

// clusterWide gives a context in which a cluster-scoped or every namespace's resource is meant.
func clusterWide(ctx context.Context) context.Context {
	return genericapirequest.WithNamespace(ctx, "")
}

func inNamespace(ctx context.Context, namespace string) context.Context {
	return genericapirequest.WithNamespace(ctx, namespace)
}

// rangeSize is how many addresses can be given out, counting the network's
// own at offset 0, which is never given out. Huge ranges are cut to 2^32.
func rangeSize(cidr netip.Prefix) uint64 {
	bits := min(cidr.Addr().BitLen()-cidr.Bits(), 32)
	size := uint64(1) << bits
	if cidr.Addr().Is4() && size > 2 {
		size-- // the broadcast address
	}
	return size
}

// staticPart is how much of a range, from its beginning, is left to those who
// ask for an address: a sixteenth, 16 at least and 256 at most.
func staticPart(size uint64) uint64 {
	if size < 32 {
		return 1
	}
	return min(max(size/16, 16), 256)
}

func isBroadcast(cidr netip.Prefix, addr netip.Addr) bool {
	return cidr.Addr().Is4() && cidr.Bits() < 31 && addr == addOffset(cidr.Masked().Addr(), uint64(1)<<(32-cidr.Bits())-1)
}

func addOffset(base netip.Addr, offset uint64) netip.Addr {
	if base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(offset))
		return netip.AddrFrom4(b)
	}
	b := base.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+offset)
	return netip.AddrFrom16(b)
}
