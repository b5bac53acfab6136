package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"keelson.dev/keelson/plugins/kit/nft"
)

// nodeLocal marks a Service that is answered at its cluster IP by the node itself: the
// proxy leaves it alone. It may be a label or an annotation, "true".
const nodeLocal = "keelson.dev/node-local"

// endpoint is where a connection may go.
type endpoint struct {
	addr netip.Addr
	port uint16
}

func compareEndpoints(a, b endpoint) int {
	return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.port, b.port))
}

// servicePort is one port of a service in one IP family, with its endpoints chosen.
type servicePort struct {
	id        string // unique: namespace/name:port/protocol
	proto     byte
	clusterIP netip.Addr
	port      uint16
	nodePort  uint16
	// external are addresses outside the cluster: external IPs, and those of load
	// balancers, which alone obey sourceRanges.
	external     []netip.Addr
	balancers    []netip.Addr
	sourceRanges []netip.Prefix
	// internalLocal and externalLocal: traffic policy Local.
	internalLocal, externalLocal bool
	affinitySeconds              int
	all, local                   []endpoint // sorted
}

// handled says whether the proxy serves the service at all.
func handled(svc *corev1.Service) bool {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return false
	}
	if _, other := svc.Labels["service.kubernetes.io/service-proxy-name"]; other {
		return false
	}
	return svc.Labels[nodeLocal] != "true" && svc.Annotations[nodeLocal] != "true"
}

// servicePorts computes what a service is in one family. A service that is not in the
// family gives nothing.
func servicePorts(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, fam nft.Family, node string) []servicePort {
	if svc == nil || !handled(svc) {
		return nil
	}
	clusterIP := ofFamily(fam, append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	if len(clusterIP) == 0 {
		return nil
	}
	external := ofFamily(fam, svc.Spec.ExternalIPs)
	balancers := balancerIPs(svc, fam)
	ranges := sourceRanges(svc, fam)
	var ports []servicePort
	for _, p := range svc.Spec.Ports {
		sp := servicePort{
			id:    svc.Namespace + "/" + svc.Name + ":" + p.Name + "/" + string(p.Protocol),
			proto: nft.Proto(string(p.Protocol)), clusterIP: clusterIP[0], port: uint16(p.Port), nodePort: uint16(p.NodePort),
			external: external, balancers: balancers, sourceRanges: ranges,
			internalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
			externalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		}
		if sp.proto == 0 {
			continue
		}
		if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			sp.affinitySeconds = 10800 // the API's default
			if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
				sp.affinitySeconds = int(*c.ClientIP.TimeoutSeconds)
			}
		}
		sp.all, sp.local = choose(endpointSlices, p.Name, fam, node)
		ports = append(ports, sp)
	}
	return ports
}

// choose picks the endpoints of a port: the ready ones, or, if there is none, those that
// terminate and still serve; and the same among the node's own.
func choose(endpointSlices []*discoveryv1.EndpointSlice, portName string, fam nft.Family, node string) (all, local []endpoint) {
	var ready, readyLocal, ending, endingLocal []endpoint
	for _, slice := range endpointSlices {
		for _, p := range slice.Ports {
			if p.Port == nil || deref(p.Name) != portName {
				continue
			}
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				addrs := ofFamily(fam, ep.Addresses)
				if len(addrs) == 0 {
					continue
				}
				e := endpoint{addrs[0], uint16(*p.Port)}
				here := ep.NodeName != nil && *ep.NodeName == node
				switch {
				case ep.Conditions.Ready == nil || *ep.Conditions.Ready:
					ready = append(ready, e)
					if here {
						readyLocal = append(readyLocal, e)
					}
				case ep.Conditions.Terminating != nil && *ep.Conditions.Terminating && ep.Conditions.Serving != nil && *ep.Conditions.Serving:
					ending = append(ending, e)
					if here {
						endingLocal = append(endingLocal, e)
					}
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	if len(readyLocal) == 0 {
		readyLocal = endingLocal
	}
	return unique(ready), unique(readyLocal)
}

func unique(e []endpoint) []endpoint {
	slices.SortFunc(e, compareEndpoints)
	return slices.Compact(e)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// ofFamily are those of the addresses that are of the family, sorted, each once.
func ofFamily(fam nft.Family, texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && fam.Is(addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

func balancerIPs(svc *corev1.Service, fam nft.Family) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			texts = append(texts, in.IP)
		}
	}
	return ofFamily(fam, texts)
}

// sourceRanges are the ranges that may use the load balancer; nil means all. Ranges of
// the other family alone leave nobody of this one: the range of the unspecified address.
func sourceRanges(svc *corev1.Service, fam nft.Family) []netip.Prefix {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	var ranges []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(text); err == nil && fam.Is(p.Addr()) {
			ranges = append(ranges, p.Masked())
		}
	}
	if len(ranges) == 0 {
		ranges = append(ranges, netip.PrefixFrom(fam.Loopback().Addr(), fam.Loopback().Addr().BitLen()))
	}
	return ranges
}
