package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// applyRoutes makes the routes to other nodes' ranges and to the service ranges, and
// removes those of ours that are no longer wanted. What could not be routed is in the
// error; the rest is done.
func (s *Server) applyRoutes(bridge netlink.Link, own []netip.Prefix, others []remote) error {
	var errs []error
	wanted := map[string]*netlink.Route{}
	var vxlan netlink.Link
	var peers []vtep
	for _, r := range others {
		for _, cidr := range r.podCIDRs {
			addr, ok := r.address[cidr.Addr().Is4()]
			if !ok {
				continue
			}
			route, err := s.directRoute(cidr, addr)
			if err == nil && route == nil {
				if vxlan == nil {
					if vxlan, err = s.ensureVXLAN(own); err != nil {
						errs = append(errs, fmt.Errorf("reach node %s: %w", r.name, err))
						continue
					}
				}
				peers = append(peers, vtep{tunnel: cidr.Addr(), node: addr})
				route = &netlink.Route{LinkIndex: vxlan.Attrs().Index, Dst: ipNet(cidr), Gw: cidr.Addr().AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("reach node %s: %w", r.name, err))
				continue
			}
			wanted[cidr.String()] = route
		}
	}
	// A node without a default route reaches services, too; the proxy translates these
	// packets before they leave.
	for _, cidr := range s.env.Cluster.ServiceCIDRs {
		for _, o := range own {
			if o.Addr().Is4() == cidr.Addr().Is4() {
				wanted[cidr.Masked().String()] = &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(cidr.Masked()), Src: o.Addr().Next().AsSlice()}
			}
		}
	}
	if vxlan != nil {
		errs = append(errs, s.ensurePeers(vxlan, peers))
	} else {
		errs = append(errs, deleteLink(s.host, vxlanName))
	}
	return errors.Join(append(errs, s.replaceRoutes(wanted))...)
}

// directRoute is the route by way of the node's own address, nil if it needs the tunnel.
func (s *Server) directRoute(cidr netip.Prefix, addr netip.Addr) (*netlink.Route, error) {
	if s.cfg.Encapsulation == EncapsulationAlways && addr.Is4() {
		return nil, nil
	}
	got, err := s.host.RouteGet(addr.AsSlice())
	if err != nil || len(got) == 0 {
		return nil, fmt.Errorf("find route to %s: %w", addr, err)
	}
	if got[0].Gw == nil {
		return &netlink.Route{LinkIndex: got[0].LinkIndex, Dst: ipNet(cidr), Gw: addr.AsSlice()}, nil
	}
	if s.cfg.Encapsulation == EncapsulationNever {
		return nil, fmt.Errorf("%s is on another segment, and encapsulation is Never", addr)
	}
	if addr.Is6() {
		return nil, fmt.Errorf("%s is on another segment, and the tunnel carries IPv4 alone", addr)
	}
	return nil, nil
}

func (s *Server) replaceRoutes(wanted map[string]*netlink.Route) error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		ours, err := retry(func() ([]netlink.Route, error) {
			return s.host.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range ours {
			w := wanted[r.Dst.String()]
			if w == nil {
				if err := s.host.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
					errs = append(errs, fmt.Errorf("delete route to %s: %w", r.Dst, err))
				}
			} else if r.LinkIndex == w.LinkIndex && r.Gw.Equal(w.Gw) {
				delete(wanted, r.Dst.String())
			}
		}
	}
	for dst, r := range wanted {
		r.Protocol = routeProtocol
		if strings.Contains(dst, ":") {
			r.Src = nil
		}
		if err := s.host.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("set route to %s: %w", dst, err))
		}
	}
	return errors.Join(errs...)
}

// vtep is the far end of the tunnel: the address it has in the tunnel is the first of its
// node's range, its MAC address is derived from that.
type vtep struct{ tunnel, node netip.Addr }

func (s *Server) ensureVXLAN(own []netip.Prefix) (netlink.Link, error) {
	var self netip.Addr
	for _, p := range own {
		if p.Addr().Is4() {
			self = p.Addr()
		}
	}
	if !self.IsValid() {
		return nil, errors.New("the node has no IPv4 range")
	}
	var local netip.Addr
	for _, a := range s.env.Node.Addresses {
		if a.Is4() && !local.IsValid() {
			local = a
		}
	}
	link, err := s.host.LinkByName(vxlanName)
	if v, ok := link.(*netlink.Vxlan); err == nil && (!ok || v.VxlanId != s.cfg.VXLANID || v.Port != s.cfg.VXLANPort || !v.SrcAddr.Equal(local.AsSlice())) {
		if err := s.host.LinkDel(link); err != nil {
			return nil, fmt.Errorf("delete link %s: %w", vxlanName, err)
		}
		link = nil
	} else if err != nil {
		link = nil
	}
	if link == nil {
		attrs := netlink.LinkAttrs{Name: vxlanName, MTU: s.linkMTU() - vxlanOverhead, HardwareAddr: macOf(self)}
		err := s.host.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: s.cfg.VXLANID, Port: s.cfg.VXLANPort, SrcAddr: local.AsSlice(), Learning: false})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("add link %s: %w", vxlanName, err)
		}
		if link, err = s.host.LinkByName(vxlanName); err != nil {
			return nil, fmt.Errorf("find link %s: %w", vxlanName, err)
		}
	}
	if err := s.host.AddrReplace(link, address(netip.PrefixFrom(self, 32))); err != nil {
		return nil, fmt.Errorf("set address %s of %s: %w", self, vxlanName, err)
	}
	if err := s.host.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("bring up %s: %w", vxlanName, err)
	}
	return link, nil
}

// ensurePeers sets where the tunnel sends the packets for each far end.
func (s *Server) ensurePeers(vxlan netlink.Link, peers []vtep) error {
	var errs []error
	known := map[string]bool{}
	index := vxlan.Attrs().Index
	for _, p := range peers {
		mac := macOf(p.tunnel)
		known[mac.String()] = true
		for _, n := range []*netlink.Neigh{
			{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: p.tunnel.AsSlice(), HardwareAddr: mac},
			{LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, IP: p.node.AsSlice(), HardwareAddr: mac},
		} {
			if err := s.host.NeighSet(n); err != nil {
				errs = append(errs, fmt.Errorf("set neighbour %s of %s: %w", n.IP, vxlanName, err))
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		list, err := retry(func() ([]netlink.Neigh, error) { return s.host.NeighList(index, family) })
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("list neighbours of %s: %w", vxlanName, err))...)
		}
		for _, n := range list {
			if n.State == netlink.NUD_PERMANENT && n.HardwareAddr != nil && !known[n.HardwareAddr.String()] && !isZero(n.HardwareAddr) {
				n.Flags |= map[int]int{unix.AF_BRIDGE: netlink.NTF_SELF}[family]
				errs = append(errs, s.host.NeighDel(&n))
			}
		}
	}
	return errors.Join(errs...)
}

func isZero(mac net.HardwareAddr) bool { return strings.Trim(mac.String(), "0:") == "" }
