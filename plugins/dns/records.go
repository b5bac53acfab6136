package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// schemaVersion is the version of the DNS specification that is followed.
const schemaVersion = "1.1.0"

// result is what the zone has for a name.
type result struct {
	exists  bool     // false: NXDOMAIN
	answers []dns.RR // none, and exists: NODATA
	extra   []dns.RR
	cname   string // the answer goes on there
}

// namer makes records and knows the names around them.
type namer struct {
	zone   *zone
	domain string // "cluster.local."
	ttl    uint32
}

func (n *namer) header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: n.ttl}
}

// serverName is the name of the name server in NS and SOA records.
func (n *namer) serverName() string { return "ns.dns." + n.domain }

func (n *namer) soa() dns.RR {
	return &dns.SOA{Hdr: n.header(n.domain, dns.TypeSOA), Ns: n.serverName(), Mbox: "hostmaster." + n.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: n.ttl}
}

// address is an A or AAAA record, if that is what was asked for.
func (n *namer) address(rrs []dns.RR, name string, kind uint16, addr netip.Addr) []dns.RR {
	switch {
	case addr.Is4() && kind == dns.TypeA:
		return append(rrs, &dns.A{Hdr: n.header(name, dns.TypeA), A: addr.AsSlice()})
	case addr.Is6() && kind == dns.TypeAAAA:
		return append(rrs, &dns.AAAA{Hdr: n.header(name, dns.TypeAAAA), AAAA: addr.AsSlice()})
	}
	return rrs
}

// lookup finds a name of the zone. The name is as asked; matching is case-insensitive.
func (n *namer) lookup(name string, kind uint16, server []netip.Addr) result {
	lower := strings.ToLower(name)
	if lower == n.domain {
		return n.apex(name, kind)
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(lower, "."+n.domain))
	last := len(labels) - 1
	switch {
	case len(labels) == 1 && labels[0] == "dns-version":
		r := result{exists: true}
		if kind == dns.TypeTXT {
			r.answers = []dns.RR{&dns.TXT{Hdr: n.header(name, dns.TypeTXT), Txt: []string{schemaVersion}}}
		}
		return r
	case lower == n.serverName():
		r := result{exists: true}
		for _, addr := range server {
			r.answers = n.address(r.answers, name, kind, addr)
		}
		return r
	case labels[last] == "dns" && len(labels) == 1:
		return result{exists: true}
	case labels[last] == "svc":
		return n.services(name, labels[:last], kind)
	case labels[last] == "pod":
		return n.pods(name, labels[:last], kind)
	}
	return result{}
}

func (n *namer) apex(name string, kind uint16) result {
	r := result{exists: true}
	switch kind {
	case dns.TypeSOA:
		r.answers = []dns.RR{n.soa()}
	case dns.TypeNS:
		r.answers = []dns.RR{&dns.NS{Hdr: n.header(name, dns.TypeNS), Ns: n.serverName()}}
	}
	return r
}

// pods answers a-b-c-d.NAMESPACE.pod.
func (n *namer) pods(name string, labels []string, kind uint16) result {
	switch len(labels) {
	case 0:
		return result{exists: true}
	case 1:
		return result{exists: n.zone.hasNamespace(labels[0])}
	case 2:
		addr, ok := undashed(labels[0])
		if !ok || !n.zone.hasNamespace(labels[1]) {
			return result{}
		}
		return result{exists: true, answers: n.address(nil, name, kind, addr)}
	}
	return result{}
}

// services answers what is below svc: SERVICE.NAMESPACE, ENDPOINT.SERVICE.NAMESPACE and
// _PORT._PROTOCOL.SERVICE.NAMESPACE.
func (n *namer) services(name string, labels []string, kind uint16) result {
	if len(labels) == 0 {
		return result{exists: true}
	}
	namespace := labels[len(labels)-1]
	if len(labels) == 1 {
		return result{exists: n.zone.hasNamespace(namespace)}
	}
	service := labels[len(labels)-2]
	svc := n.zone.service(namespace, service)
	if svc == nil {
		return result{}
	}
	below := labels[:len(labels)-2]
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(below) > 0 {
			return result{}
		}
		return result{exists: true, cname: dns.Fqdn(svc.Spec.ExternalName)}
	}
	if headless(svc) {
		return n.headless(name, svc, below, kind)
	}
	return n.clusterIP(name, svc, below, kind)
}

// serviceName is the full name of a service, with labels before it.
func (n *namer) serviceName(svc *corev1.Service, before ...string) string {
	return strings.Join(append(before, svc.Name, svc.Namespace, "svc", n.domain), ".")
}

func (n *namer) clusterIP(name string, svc *corev1.Service, below []string, kind uint16) result {
	full := n.serviceName(svc)
	srv := func(port int32) result {
		r := result{exists: true}
		if kind != dns.TypeSRV {
			return r
		}
		r.answers = []dns.RR{&dns.SRV{Hdr: n.header(name, dns.TypeSRV), Weight: 100, Port: uint16(port), Target: full}}
		for _, addr := range clusterIPs(svc) {
			r.extra = n.address(n.address(r.extra, full, dns.TypeA, addr), full, dns.TypeAAAA, addr)
		}
		return r
	}
	switch len(below) {
	case 0:
		r := result{exists: true}
		if kind == dns.TypeSRV { // all named ports
			for _, p := range svc.Spec.Ports {
				s := srv(p.Port)
				r.answers, r.extra = append(r.answers, s.answers...), s.extra
			}
			return r
		}
		for _, addr := range clusterIPs(svc) {
			r.answers = n.address(r.answers, name, kind, addr)
		}
		return r
	case 1: // _tcp, which has names below
		for _, p := range svc.Spec.Ports {
			if p.Name != "" && below[0] == protoLabel(p.Protocol) {
				return result{exists: true}
			}
		}
	case 2:
		for _, p := range svc.Spec.Ports {
			if p.Name != "" && below[0] == "_"+p.Name && below[1] == protoLabel(p.Protocol) {
				return srv(p.Port)
			}
		}
	}
	return result{}
}

func protoLabel(p corev1.Protocol) string {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return "_" + strings.ToLower(string(p))
}

// headless answers for a service without cluster IP: its endpoints.
func (n *namer) headless(name string, svc *corev1.Service, below []string, kind uint16) result {
	eps := n.zone.endpoints(svc.Namespace, svc.Name)
	switch len(below) {
	case 0:
		r := result{exists: true}
		if kind == dns.TypeSRV {
			return n.endpointPorts(name, svc, eps, "", "")
		}
		seen := map[netip.Addr]bool{}
		for _, e := range eps {
			if !seen[e.addr] {
				seen[e.addr] = true
				r.answers = n.address(r.answers, name, kind, e.addr)
			}
		}
		return r
	case 1:
		var r result
		seen := map[netip.Addr]bool{}
		for _, e := range eps {
			if e.label == below[0] && !seen[e.addr] {
				seen[e.addr], r.exists = true, true
				r.answers = n.address(r.answers, name, kind, e.addr)
			}
			for _, p := range e.ports {
				r.exists = r.exists || p.Protocol != nil && p.Name != nil && *p.Name != "" && below[0] == protoLabel(*p.Protocol)
			}
		}
		return r
	case 2:
		r := n.endpointPorts(name, svc, eps, below[0], below[1])
		if kind != dns.TypeSRV {
			r.answers, r.extra = nil, nil
		}
		return r
	}
	return result{}
}

// endpointPorts are the SRV records of endpoints: of one port, or of all named ones.
func (n *namer) endpointPorts(name string, svc *corev1.Service, eps []endpoint, port, proto string) result {
	r := result{exists: port == ""}
	seen := map[string]bool{}
	for _, e := range eps {
		target := n.serviceName(svc, e.label)
		for _, p := range e.ports {
			if p.Name == nil || *p.Name == "" || p.Port == nil || p.Protocol == nil ||
				port != "" && (port != "_"+*p.Name || proto != protoLabel(*p.Protocol)) {
				continue
			}
			r.exists = true
			srv := &dns.SRV{Hdr: n.header(name, dns.TypeSRV), Weight: 100, Port: uint16(*p.Port), Target: target}
			if key := srv.String(); !seen[key] {
				seen[key] = true
				r.answers = append(r.answers, srv)
			}
		}
		if key := target + e.addr.String(); !seen[key] && len(r.answers) > 0 {
			seen[key] = true
			r.extra = n.address(n.address(r.extra, target, dns.TypeA, e.addr), target, dns.TypeAAAA, e.addr)
		}
	}
	return r
}

// reverse answers PTR questions.
func (n *namer) reverse(name string, addr netip.Addr, kind uint16) result {
	names := n.zone.reverse(addr)
	r := result{exists: len(names) > 0}
	if kind == dns.TypePTR {
		for _, target := range names {
			r.answers = append(r.answers, &dns.PTR{Hdr: n.header(name, dns.TypePTR), Ptr: target + ".svc." + n.domain})
		}
	}
	return r
}

// reverseAddress is the address that a name in in-addr.arpa or ip6.arpa stands for.
func reverseAddress(name string) (netip.Addr, bool) {
	lower := strings.ToLower(name)
	if rest, ok := strings.CutSuffix(lower, ".in-addr.arpa."); ok {
		l := strings.Split(rest, ".")
		if len(l) != 4 {
			return netip.Addr{}, false
		}
		addr, err := netip.ParseAddr(l[3] + "." + l[2] + "." + l[1] + "." + l[0])
		return addr, err == nil
	}
	rest, ok := strings.CutSuffix(lower, ".ip6.arpa.")
	if !ok {
		return netip.Addr{}, false
	}
	l := strings.Split(rest, ".")
	if len(l) != 32 {
		return netip.Addr{}, false
	}
	var text strings.Builder
	for i := 31; i >= 0; i-- {
		if len(l[i]) != 1 {
			return netip.Addr{}, false
		}
		text.WriteString(l[i])
		if i%4 == 0 && i > 0 {
			text.WriteByte(':')
		}
	}
	addr, err := netip.ParseAddr(text.String())
	return addr, err == nil
}
