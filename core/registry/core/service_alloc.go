package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/apiserver/pkg/util/dryrun"

	"keelson.dev/keelson/core/registry/resource"
)

// allocator gives services their cluster IPs and node ports.
//
// An address is claimed by creating an IPAddress object of its name: the store
// lets one creator win, and the claim lasts. Node ports are bits of one stored
// object, changed by compare and swap. A claim is made before the service is
// written and given back when that fails; what a crash leaves behind is given
// back by repair. Several servers may share the store: nothing here counts on
// a lock of this process.
type allocator struct {
	env   *resource.Env
	store *resource.Store
	ports *portRange

	// releasing has the addresses that this allocator gives back at the moment.
	releasing sync.Map

	due      atomic.Int64 // when to repair next, in Unix nanoseconds; zero before the first time
	mu       sync.Mutex   // held while repairing; guards suspects
	suspects []byte       // the node ports that no service had the last time
}

func newAllocator(env *resource.Env, store *resource.Store) *allocator {
	return &allocator{env: env, store: store, ports: &portRange{env: env}}
}

// undo is what to take back when a write fails, or what it made superfluous when it succeeds.
type undo struct {
	owner types.NamespacedName
	ips   []string
	ports []int32
}

func (a *allocator) release(ctx context.Context, u undo) {
	for _, ip := range u.ips {
		a.releaseIP(ctx, u.owner, ip)
	}
	if len(u.ports) > 0 {
		a.ports.release(ctx, u.ports)
	}
}

// beginCreate is the store's hook before a service is created.
func (a *allocator) beginCreate(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
	s := obj.(*corev1.Service)
	if s.Name == "" && s.GenerateName != "" { // a claim names its owner
		s.Name = names.SimpleNameGenerator.GenerateName(s.GenerateName)
	}
	if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != "" {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	claimed, err := a.allocate(ctx, s, nil, dryrun.IsDryRun(options.DryRun))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, success bool) {
		if !success {
			a.release(context.WithoutCancel(ctx), claimed)
		}
	}, nil
}

// beginUpdate is the store's hook before a service is updated.
func (a *allocator) beginUpdate(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
	s, before := obj.(*corev1.Service), old.(*corev1.Service)
	followClusterIP(s, before)
	keepAllocated(s, before)
	dropForeignFields(s)
	dry := dryrun.IsDryRun(options.DryRun)
	claimed, err := a.allocate(ctx, s, before, dry)
	if err != nil {
		return nil, err
	}
	superfluous := difference(before, s)
	superfluous.owner = ownerOf(ctx, before)
	return func(ctx context.Context, success bool) {
		ctx = context.WithoutCancel(ctx)
		switch {
		case !success:
			a.release(ctx, claimed)
		case !dry:
			a.release(ctx, superfluous)
		}
	}, nil
}

// afterDelete is the store's hook when a service is gone.
func (a *allocator) afterDelete(obj runtime.Object, options *metav1.DeleteOptions) {
	if options != nil && dryrun.IsDryRun(options.DryRun) {
		return
	}
	s := obj.(*corev1.Service)
	// The store hands no context to this hook; the release has to happen in any case.
	ctx := context.Background()
	a.release(ctx, undo{owner: ownerOf(ctx, s), ips: addresses(s), ports: nodePorts(s)})
}

// ownerOf names a service, also one that has its namespace from the request only.
func ownerOf(ctx context.Context, s *corev1.Service) types.NamespacedName {
	namespace := s.Namespace
	if namespace == "" {
		namespace = genericapirequest.NamespaceValue(ctx)
	}
	return types.NamespacedName{Namespace: namespace, Name: s.Name}
}

// addresses are the cluster IPs of a service, none if it is headless.
func addresses(s *corev1.Service) []string {
	if headless(s) {
		return nil
	}
	return s.Spec.ClusterIPs
}

// nodePorts are the node ports of a service, each once.
func nodePorts(s *corev1.Service) []int32 {
	var list []int32
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && !slices.Contains(list, p.NodePort) {
			list = append(list, p.NodePort)
		}
	}
	if s.Spec.HealthCheckNodePort != 0 && !slices.Contains(list, s.Spec.HealthCheckNodePort) {
		list = append(list, s.Spec.HealthCheckNodePort)
	}
	return list
}

// difference is what before has and after has not.
func difference(before, after *corev1.Service) undo {
	var u undo
	now, nowPorts := addresses(after), nodePorts(after)
	for _, ip := range addresses(before) {
		if !slices.Contains(now, ip) {
			u.ips = append(u.ips, ip)
		}
	}
	for _, p := range nodePorts(before) {
		if !slices.Contains(nowPorts, p) {
			u.ports = append(u.ports, p)
		}
	}
	return u
}

// followClusterIP keeps clusterIPs[0] and clusterIP the same when a client that
// knows only one of them has changed it.
func followClusterIP(s, old *corev1.Service) {
	same := slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != "":
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		if s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	case s.Spec.ClusterIP == "" && old.Spec.ClusterIP != "" && same:
		s.Spec.ClusterIPs = nil
	case s.Spec.ClusterIP != old.Spec.ClusterIP && same && len(s.Spec.ClusterIPs) > 0:
		s.Spec.ClusterIPs = append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs[1:]...)
	}
}

// keepAllocated copies what was allocated into an update that leaves it out,
// as clients that replace objects do.
func keepAllocated(s, old *corev1.Service) {
	name := corev1.ServiceTypeExternalName
	if s.Spec.Type != name && old.Spec.Type != name {
		if s.Spec.ClusterIP == "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = old.Spec.ClusterIP, old.Spec.ClusterIPs
		}
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = old.Spec.IPFamilies
		}
		if s.Spec.IPFamilyPolicy == nil {
			s.Spec.IPFamilyPolicy = old.Spec.IPFamilyPolicy
		}
		trimToSingleStack(s, old)
	}
	if s.Spec.Type == name && old.Spec.Type != name && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	}
	if exposed(s) && exposed(old) {
		type port struct {
			protocol corev1.Protocol
			number   int32
		}
		was := map[port]int32{}
		for _, p := range old.Spec.Ports {
			was[port{p.Protocol, p.Port}] = p.NodePort
		}
		for i := range s.Spec.Ports {
			if p := &s.Spec.Ports[i]; p.NodePort == 0 {
				p.NodePort = was[port{p.Protocol, p.Port}]
			}
		}
	}
	if !exposed(s) && exposed(old) { // what the update only carried along goes with the type
		was := nodePorts(old)
		for i := range s.Spec.Ports {
			if slices.Contains(was, s.Spec.Ports[i].NodePort) {
				s.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if wantsHealthPort(s) && wantsHealthPort(old) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// trimToSingleStack takes the second address and family, which an update has
// only carried along, from a service that is to have one.
func trimToSingleStack(s, old *corev1.Service) {
	single := corev1.IPFamilyPolicySingleStack
	if old.Spec.IPFamilyPolicy == nil || *old.Spec.IPFamilyPolicy == single || s.Spec.IPFamilyPolicy == nil || *s.Spec.IPFamilyPolicy != single {
		return
	}
	if len(s.Spec.ClusterIPs) > 1 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1:1]
	}
	if len(s.Spec.IPFamilies) > 1 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = s.Spec.IPFamilies[:1:1]
	}
}

// allocate claims what the service wants and has not got from old, and writes it into the service.
func (a *allocator) allocate(ctx context.Context, s, old *corev1.Service, dry bool) (undo, error) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return undo{}, nil
	}
	if err := a.repair(ctx); err != nil {
		return undo{}, apierrors.NewInternalError(fmt.Errorf("bring the allocations of services in order: %w", err))
	}
	if errs := validateClusterIPs(s, field.NewPath("spec")); len(errs) > 0 { // what follows counts on them
		return undo{}, invalidService(s, errs)
	}
	if errs := a.setFamilies(s); len(errs) > 0 {
		return undo{}, invalidService(s, errs)
	}
	claimed := undo{owner: ownerOf(ctx, s)}
	fail := func(err error) (undo, error) {
		a.release(context.WithoutCancel(ctx), claimed)
		return undo{}, err
	}
	if !headless(s) {
		ips, err := a.claimIPs(ctx, s, old, dry)
		claimed.ips = ips
		if err != nil {
			return fail(err)
		}
	} else {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
	}
	ports, err := a.ports.claim(ctx, s, old, dry)
	claimed.ports = ports
	if err != nil {
		return fail(err)
	}
	return claimed, nil
}

// setFamilies decides on the address families of a service.
func (a *allocator) setFamilies(s *corev1.Service) field.ErrorList {
	spec := &s.Spec
	at := field.NewPath("spec", "ipFamilies")
	first := family(a.env.ServiceCIDRs[0].Addr())
	policy := corev1.IPFamilyPolicySingleStack
	if spec.IPFamilyPolicy != nil {
		policy = *spec.IPFamilyPolicy
	}
	if policy == corev1.IPFamilyPolicySingleStack {
		if errs := tooMany(spec, policy); len(errs) > 0 {
			return errs
		}
	}
	if !headless(s) { // addresses that are asked for tell the families
		for i := len(spec.IPFamilies); i < len(spec.ClusterIPs); i++ {
			addr, err := netip.ParseAddr(spec.ClusterIPs[i])
			if err != nil {
				continue
			}
			f := family(addr)
			if a.cidr(f) == nil {
				return field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), spec.ClusterIPs, string(f)+" is not configured on this cluster")}
			}
			spec.IPFamilies = append(spec.IPFamilies, f)
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{first}
		if headless(s) && len(spec.Selector) == 0 && spec.IPFamilyPolicy == nil {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
	}
	selectorless := headless(s) && len(spec.Selector) == 0
	dual := len(a.env.ServiceCIDRs) > 1 || selectorless
	spec.IPFamilyPolicy = &policy
	if policy == corev1.IPFamilyPolicyRequireDualStack && !dual {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services")}
	}
	if policy != corev1.IPFamilyPolicySingleStack && dual && len(spec.IPFamilies) == 1 {
		spec.IPFamilies = append(spec.IPFamilies, other(spec.IPFamilies[0]))
	}
	if selectorless {
		return nil
	}
	for i, f := range spec.IPFamilies {
		if a.cidr(f) == nil {
			return field.ErrorList{field.Invalid(at.Index(i), f, "not configured on this cluster")}
		}
	}
	return nil
}

// tooMany refuses two addresses or families of a service that wants one.
func tooMany(spec *corev1.ServiceSpec, policy corev1.IPFamilyPolicy) field.ErrorList {
	at, of := field.NewPath("spec", "ipFamilyPolicy"), "must be 'RequireDualStack' or 'PreferDualStack' when multiple "
	var errs field.ErrorList
	if len(spec.ClusterIPs) > 1 {
		errs = append(errs, field.Invalid(at, policy, of+"cluster IPs are specified"))
	}
	if len(spec.IPFamilies) > 1 {
		errs = append(errs, field.Invalid(at, policy, of+"IP families are specified"))
	}
	return errs
}

func family(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// cidr gives the range of a family, nil if the cluster has none.
func (a *allocator) cidr(f corev1.IPFamily) *netip.Prefix {
	for i, p := range a.env.ServiceCIDRs {
		if family(p.Addr()) == f {
			return &a.env.ServiceCIDRs[i]
		}
	}
	return nil
}

func invalidService(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(version.WithKind("Service").GroupKind(), s.Name, errs)
}
