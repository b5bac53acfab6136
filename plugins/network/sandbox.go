package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// errNetns means that the path is not a network namespace that a pod can have.
var errNetns = errors.New("not a network namespace of a pod")

// joinSandbox makes or repairs the sandbox's link, addresses and routes. All work in the
// pod's namespace goes through a netlink socket opened in it; the calling thread is back
// in its own before the first message.
func joinSandbox(h *netlink.Handle, bridge netlink.Link, sb *sandbox, mtu int) error {
	ns, err := netns.GetFromPath(sb.Netns)
	if err != nil {
		return fmt.Errorf("%w: open %s: %w", errNetns, sb.Netns, err)
	}
	defer ns.Close()
	if own, err := netns.Get(); err == nil {
		same := own.Equal(ns)
		_ = own.Close()
		if same {
			return fmt.Errorf("%w: %s is the node's own", errNetns, sb.Netns)
		}
	}
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%w: enter %s: %w", errNetns, sb.Netns, err)
	}
	defer pod.Close()
	inside, err := ensurePair(h, pod, ns, bridge, sb, mtu)
	if err != nil {
		return err
	}
	return ensureInside(pod, inside, sb)
}

// ensurePair makes the veth pair, unless both ends are there and belong together.
func ensurePair(h, pod *netlink.Handle, ns netns.NsHandle, bridge netlink.Link, sb *sandbox, mtu int) (netlink.Link, error) {
	name := linkName(sb.ID)
	outside, err := h.LinkByName(name)
	if err != nil && !notFound(err) {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	var inside netlink.Link
	if outside != nil && err == nil {
		if inside, err = pod.LinkByName(podLink); err != nil || inside.Attrs().ParentIndex != outside.Attrs().Index {
			if err := h.LinkDel(outside); err != nil && !notFound(err) { // its other end is elsewhere
				return nil, fmt.Errorf("delete link %s: %w", name, err)
			}
			outside = nil
		}
	} else {
		outside = nil
	}
	if outside == nil {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, Alias: sb.Namespace + "/" + sb.Name, MasterIndex: bridge.Attrs().Index},
			PeerName:  podLink, PeerHardwareAddr: macOf(sb.Addresses[0]), PeerNamespace: netlink.NsFd(int(ns)), PeerMTU: uint32(mtu),
		}
		if err := h.LinkAdd(veth); err != nil {
			return nil, fmt.Errorf("add link %s with %s in %s: %w", name, podLink, sb.Netns, err)
		}
		if outside, err = h.LinkByName(name); err != nil {
			return nil, fmt.Errorf("find link %s: %w", name, err)
		}
		if inside, err = pod.LinkByName(podLink); err != nil {
			return nil, fmt.Errorf("find %s in %s: %w", podLink, sb.Netns, err)
		}
	}
	return inside, ensureOutside(h, bridge, outside)
}

func ensureOutside(h *netlink.Handle, bridge, outside netlink.Link) error {
	name := outside.Attrs().Name
	if outside.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := h.LinkSetMaster(outside, bridge); err != nil {
			return fmt.Errorf("put link %s on %s: %w", name, bridgeName, err)
		}
	}
	// With br_netfilter a pod's packet to its own service comes back by the port it came
	// from.
	if err := h.LinkSetHairpin(outside, true); err != nil {
		return fmt.Errorf("set hairpin of link %s: %w", name, err)
	}
	if outside.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(outside); err != nil {
			return fmt.Errorf("bring up link %s: %w", name, err)
		}
	}
	return nil
}

// ensureInside sets up what the pod sees.
func ensureInside(pod *netlink.Handle, inside netlink.Link, sb *sandbox) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo in %s: %w", sb.Netns, err)
	}
	for _, link := range []netlink.Link{lo, inside} {
		if link.Attrs().Flags&net.FlagUp == 0 {
			if err := pod.LinkSetUp(link); err != nil {
				return fmt.Errorf("bring up %s in %s: %w", link.Attrs().Name, sb.Netns, err)
			}
		}
	}
	for i, addr := range sb.Addresses {
		if err := pod.AddrReplace(inside, address(netip.PrefixFrom(addr, addr.BitLen()))); err != nil {
			return fmt.Errorf("set address %s in %s: %w", addr, sb.Netns, err)
		}
		gw := sb.Gateways[i]
		everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if addr.Is6() {
			everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		routes := []*netlink.Route{
			{LinkIndex: inside.Attrs().Index, Dst: host(gw), Scope: netlink.SCOPE_LINK},
			{LinkIndex: inside.Attrs().Index, Dst: ipNet(everything), Gw: gw.AsSlice(), Src: addr.AsSlice()},
		}
		for _, r := range routes {
			if addr.Is6() {
				r.Src = nil
			}
			if err := pod.RouteReplace(r); err != nil {
				return fmt.Errorf("set route to %s in %s: %w", r.Dst, sb.Netns, err)
			}
		}
	}
	return nil
}
