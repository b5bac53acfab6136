package dns

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Names of the informers' indexes.
const (
	byService = "service" // slices, by namespace/service
	byAddress = "address" // slices by endpoint address, services by cluster IP
)

// zone knows the cluster's objects. It is read by any number of queries at once; the
// informers change it.
type zone struct {
	services   cache.Indexer
	slices     cache.Indexer
	namespaces cache.Store
	synced     func() bool
}

// endpoint is a ready address of a headless service.
type endpoint struct {
	addr  netip.Addr
	label string // its name below the service: the hostname, or the address with dashes
	named bool   // label is a hostname
	ports []discoveryv1.EndpointPort
}

func (z *zone) service(namespace, name string) *corev1.Service {
	obj, ok, err := z.services.GetByKey(namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	svc, _ := obj.(*corev1.Service)
	return svc
}

func (z *zone) hasNamespace(name string) bool {
	_, ok, err := z.namespaces.GetByKey(name)
	return err == nil && ok
}

// endpoints are the ready endpoints of a headless service, each address once. (Slices
// say "ready" of all endpoints of a service that publishes those not ready.)
func (z *zone) endpoints(namespace, service string) []endpoint {
	objs, err := z.slices.ByIndex(byService, namespace+"/"+service)
	if err != nil {
		return nil
	}
	var eps []endpoint
	for _, obj := range objs {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for i := range slice.Endpoints {
			ep := &slice.Endpoints[i]
			if ep.Conditions.Ready != nil && !*ep.Conditions.Ready {
				continue
			}
			for _, text := range ep.Addresses {
				addr, err := netip.ParseAddr(text)
				if err != nil {
					continue
				}
				e := endpoint{addr: addr, label: dashed(addr), ports: slice.Ports}
				if ep.Hostname != nil && *ep.Hostname != "" {
					e.label, e.named = strings.ToLower(*ep.Hostname), true
				}
				eps = append(eps, e)
			}
		}
	}
	slices.SortStableFunc(eps, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	return eps
}

// reverse are the names of an address, relative to the service zone: that of the service
// with this cluster IP, or those of the named endpoints of headless services.
func (z *zone) reverse(addr netip.Addr) []string {
	var names []string
	if objs, err := z.services.ByIndex(byAddress, addr.String()); err == nil {
		for _, obj := range objs {
			if svc, ok := obj.(*corev1.Service); ok {
				names = append(names, svc.Name+"."+svc.Namespace)
			}
		}
	}
	if len(names) > 0 {
		return names
	}
	objs, err := z.slices.ByIndex(byAddress, addr.String())
	if err != nil {
		return nil
	}
	for _, obj := range objs {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		service := slice.Labels[discoveryv1.LabelServiceName]
		if svc := z.service(slice.Namespace, service); svc == nil || !headless(svc) {
			continue
		}
		for _, e := range z.endpoints(slice.Namespace, service) {
			if e.addr == addr && e.named {
				names = append(names, e.label+"."+service+"."+slice.Namespace)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName && svc.Spec.ClusterIP == corev1.ClusterIPNone
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// dashed is an address as a label: 10-0-0-1, or fd00--1.
func dashed(addr netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
}

// undashed is the address that a label means.
func undashed(label string) (netip.Addr, bool) {
	if strings.Count(label, "-") == 3 && !strings.Contains(label, "--") {
		if addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
			return addr, true
		}
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return addr, err == nil && addr.Is6()
}

func indexSlices(obj any) ([]string, error) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
			return []string{slice.Namespace + "/" + name}, nil
		}
	}
	return nil, nil
}

func indexEndpoints(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok {
		return nil, nil
	}
	var keys []string
	for i := range slice.Endpoints {
		if h := slice.Endpoints[i].Hostname; h != nil && *h != "" { // others have no reverse name
			keys = append(keys, slice.Endpoints[i].Addresses...)
		}
	}
	return keys, nil
}

func indexClusterIPs(obj any) ([]string, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, nil
	}
	var keys []string
	for _, addr := range clusterIPs(svc) {
		keys = append(keys, addr.String())
	}
	return keys, nil
}

// slim drops what the zone does not read.
func slim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		o.ManagedFields, o.Annotations, o.Labels, o.Status = nil, nil, nil, corev1.ServiceStatus{}
	case *corev1.Namespace:
		o.ManagedFields, o.Annotations, o.Labels = nil, nil, nil
	case *discoveryv1.EndpointSlice:
		o.ManagedFields, o.Annotations = nil, nil
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			e.TargetRef, e.DeprecatedTopology, e.Zone, e.NodeName, e.Hints = nil, nil, nil, nil, nil
		}
	}
	return obj, nil
}
