package kernel

import (
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// DefaultAddress is the address of this machine that others reach it by: that of
// the link with the default route, else the first global one.
func DefaultAddress() (netip.Addr, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 254}, netlink.RT_FILTER_TABLE)
	if err == nil {
		for _, route := range routes {
			if route.Dst != nil && route.Dst.IP != nil && !route.Dst.IP.IsUnspecified() {
				continue
			}
			if addr, ok := linkAddress(route.LinkIndex); ok {
				return addr, nil
			}
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, link := range links {
		// Our own links have addresses too, of pods and services.
		if link.Flags&net.FlagLoopback != 0 || link.Flags&net.FlagUp == 0 || strings.HasPrefix(link.Name, "keelson") {
			continue
		}
		if addr, ok := linkAddress(link.Index); ok {
			return addr, nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no address besides loopback")
}

// linkAddress is the first global address of a link, IPv4 before IPv6.
func linkAddress(index int) (netip.Addr, bool) {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return netip.Addr{}, false
	}
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, false
	}
	var found netip.Addr
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ip.IP)
		addr = addr.Unmap()
		if !ok || !addr.IsGlobalUnicast() {
			continue
		}
		if addr.Is4() {
			return addr, true
		}
		if !found.IsValid() {
			found = addr
		}
	}
	return found, found.IsValid()
}
