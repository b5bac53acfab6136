package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// bridgeName is the bridge that the pods of the node hang on.
	bridgeName = "keelson0"
	// vxlanName is the tunnel to nodes on other segments.
	vxlanName = "keelson-vxlan"
	// linkPrefix begins the name of a pod's link at the node's side.
	linkPrefix = "kpod"
	// podLink is the interface in the pod.
	podLink = "eth0"
	// vxlanOverhead is what VXLAN adds to a packet in IPv4, in bytes.
	vxlanOverhead = 50
	// routeProtocol marks our routes (rtm_protocol; 75 is free for local use).
	routeProtocol = netlink.RouteProtocol(75)
)

// macOf derives a MAC address from an IP address: 0a:58 and the last four bytes.
func macOf(addr netip.Addr) net.HardwareAddr {
	b := addr.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(addr netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(addr, addr.BitLen())) }

// address is what AddrReplace takes; IPv6 addresses are ours, so that none has to wait
// for duplicate address detection.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func notFound(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}

// uplink is the link of the default route, nil if there is none.
func uplink(h *netlink.Handle) (netlink.Link, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retry(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			index := r.LinkIndex
			if index == 0 && len(r.MultiPath) > 0 {
				index = r.MultiPath[0].LinkIndex
			}
			if link, err := h.LinkByIndex(index); err == nil {
				return link, nil
			}
		}
	}
	return nil, nil
}

// retry repeats a listing that another change interrupted.
func retry[T any](list func() (T, error)) (T, error) {
	for range 5 {
		if got, err := list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return list()
}

// ensureBridge makes the bridge and its addresses; what is there is kept.
func ensureBridge(h *netlink.Handle, gateways []netip.Prefix, mtu int) (netlink.Link, error) {
	link, err := h.LinkByName(bridgeName)
	if notFound(err) {
		// A bridge without an address of its own takes the lowest of its ports', and the
		// pods' neighbour entries would go stale as pods come and go.
		attrs := netlink.LinkAttrs{Name: bridgeName, MTU: mtu, HardwareAddr: macOf(gateways[0].Addr())}
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("add bridge %s: %w", bridgeName, err)
		}
		link, err = h.LinkByName(bridgeName)
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("link %s exists and is a %s, not a bridge; remove or rename it", bridgeName, link.Type())
	}
	if link.Attrs().MTU != mtu {
		if err := h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("set MTU of %s to %d: %w", bridgeName, mtu, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("bring up %s: %w", bridgeName, err)
		}
	}
	if err := writeSysctl("ipv4/conf/"+bridgeName+"/send_redirects", "0"); err != nil {
		return nil, err
	}
	for _, gw := range gateways {
		if err := h.AddrReplace(link, address(gw)); err != nil {
			return nil, fmt.Errorf("set address %s of %s: %w", gw, bridgeName, err)
		}
	}
	return link, nil
}

// deleteLink removes a link, if it is there.
func deleteLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if notFound(err) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !notFound(err) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}
