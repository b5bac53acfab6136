package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale tells which UDP flows the kernel has to forget. UDP has no end of a connection:
// a client that goes on sending from one port keeps its flow, and the endpoint that it
// was given, however long that endpoint has been gone.
type stale struct {
	addrs map[netip.AddrPort][]endpoint
	ports map[uint16][]endpoint
	nodes []netip.Addr
}

func newStale(nodes []netip.Addr) *stale {
	return &stale{addrs: map[netip.AddrPort][]endpoint{}, ports: map[uint16][]endpoint{}, nodes: nodes}
}

// compare notes addresses that have lost an endpoint, or that led nowhere before.
func (s *stale) compare(old, now *content) {
	if old == nil {
		old = &content{}
	}
	if now == nil {
		now = &content{}
	}
	for a, before := range old.udp {
		if lost(before, now.udp[a]) {
			s.addrs[a] = now.udp[a]
		}
	}
	for a, after := range now.udp {
		if len(old.udp[a]) == 0 && len(after) > 0 {
			s.addrs[a] = after
		}
	}
	for p, before := range old.udpNode {
		if lost(before, now.udpNode[p]) {
			s.ports[p] = now.udpNode[p]
		}
	}
	for p, after := range now.udpNode {
		if len(old.udpNode[p]) == 0 && len(after) > 0 {
			s.ports[p] = after
		}
	}
}

func lost(before, after []endpoint) bool {
	return slices.ContainsFunc(before, func(e endpoint) bool {
		_, kept := slices.BinarySearchFunc(after, e, compareEndpoints)
		return !kept
	})
}

func (s *stale) empty() bool { return len(s.addrs)+len(s.ports) == 0 }

// MatchConntrackFlow says whether the flow goes to one of the addresses and leads
// elsewhere than to one of its endpoints.
func (s *stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	dst, src = dst.Unmap(), src.Unmap()
	endpoints, ours := s.addrs[netip.AddrPortFrom(dst, flow.Forward.DstPort)]
	if !ours && slices.Contains(s.nodes, dst) {
		endpoints, ours = s.ports[flow.Forward.DstPort]
	}
	if !ours {
		return false
	}
	_, right := slices.BinarySearchFunc(endpoints, endpoint{src, flow.Reverse.SrcPort}, compareEndpoints)
	return !right
}

// forget deletes the flows.
func (s *stale) forget(family netlink.InetFamily) (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
	if err != nil {
		return n, fmt.Errorf("delete stale UDP flows: %w", err)
	}
	return n, nil
}
