package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	podLink = "eth0" // in the pod
	mtu     = 1500   // of links and bridge, in bytes
)

// noNetns means that a path is no network namespace that a pod can have.
type noNetns struct{ error }

func isNoNetns(err error) bool { return errors.As(err, &noNetns{}) }

// ensureBridge makes the bridge with the gateway's address, and lets the node forward; what
// is there is kept.
func ensureBridge(name string, gateway netip.Addr) (index int, err error) {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return 0, err
	}
	// Without an address of its own a bridge takes that of a port, and pods would lose it.
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: macOf(gateway)}}
	if err := netlink.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("add it: %w", err)
	}
	there, err := netlink.LinkByName(name)
	if err != nil {
		return 0, err
	}
	if there.Type() != "bridge" {
		return 0, fmt.Errorf("there is a link of that name, and it is a %s", there.Type())
	}
	// Without the range: each pod has a route of its own, so that pods of the network before
	// this one keep theirs, on another bridge.
	if err := netlink.AddrReplace(there, &netlink.Addr{IPNet: host(gateway)}); err != nil {
		return 0, fmt.Errorf("set address %s: %w", gateway, err)
	}
	return there.Attrs().Index, netlink.LinkSetUp(there)
}

// join makes or repairs a sandbox's link to the bridge, its address and routes.
func join(s sandbox, bridge int, gateway netip.Addr) error {
	ns, err := netns.GetFromPath(s.Netns)
	if err != nil {
		return noNetns{err}
	}
	defer func() { _ = ns.Close() }()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return noNetns{fmt.Errorf("enter %s: %w", s.Netns, err)}
	}
	defer pod.Close()
	inside, err := pod.LinkByName(podLink)
	if err != nil { // it is new, or lost its link: both ends go together
		if err := unlink(s); err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: s.link(), MTU: mtu, MasterIndex: bridge},
			PeerName:  podLink, PeerNamespace: netlink.NsFd(int(ns)), PeerMTU: mtu, PeerHardwareAddr: macOf(s.Address),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add link %s: %w", s.link(), err)
		}
		if inside, err = pod.LinkByName(podLink); err != nil {
			return fmt.Errorf("find %s: %w", podLink, err)
		}
	}
	outside, err := netlink.LinkByName(s.link())
	if err == nil {
		err = netlink.LinkSetUp(outside)
	}
	if err != nil {
		return fmt.Errorf("bring up link %s: %w", s.link(), err)
	}
	if err := netlink.RouteReplace(s.route(bridge, gateway)); err != nil {
		return fmt.Errorf("set route to %s: %w", s.Address, err)
	}
	return s.configure(pod, inside, gateway)
}

// configure sets up what the pod sees. It reaches other pods by way of the gateway, so that
// answers of services come back the way that their questions went.
func (s sandbox) configure(pod *netlink.Handle, inside netlink.Link, gateway netip.Addr) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := errors.Join(pod.LinkSetUp(lo), pod.LinkSetUp(inside)); err != nil {
		return fmt.Errorf("bring up links: %w", err)
	}
	if err := pod.AddrReplace(inside, &netlink.Addr{IPNet: host(s.Address)}); err != nil {
		return fmt.Errorf("set address %s: %w", s.Address, err)
	}
	for _, route := range []*netlink.Route{
		{LinkIndex: inside.Attrs().Index, Dst: host(gateway), Scope: netlink.SCOPE_LINK},
		{LinkIndex: inside.Attrs().Index, Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), Gw: gateway.AsSlice()},
	} {
		if err := pod.RouteReplace(route); err != nil {
			return fmt.Errorf("set route to %s: %w", route.Dst, err)
		}
	}
	return nil
}

// route is the node's to the sandbox.
func (s sandbox) route(bridge int, gateway netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: bridge, Dst: host(s.Address), Src: gateway.AsSlice(), Scope: netlink.SCOPE_LINK}
}

// unlink takes a sandbox's link away; one that is gone is no error.
func unlink(s sandbox) error {
	link, err := netlink.LinkByName(s.link())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", s.link(), err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// macOf is a hardware address that is as unique as the address.
func macOf(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x0a, 0x58}, a.AsSlice()...)
}
