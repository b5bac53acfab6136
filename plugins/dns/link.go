package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// linkName is the link that has our addresses.
	linkName = "keelson-dns"
	dnsPort  = 53
)

// nodeAddress is where the node's own programs may ask.
var nodeAddress = netip.MustParseAddr("169.254.20.10")

// ensureLink makes the link and its addresses; what is there is kept. The link carries
// no packets: it is a dummy link or, on kernels without that driver, a bridge without
// ports. Its addresses are the node's, whatever link a packet comes by.
func ensureLink(addrs []netip.Addr) error {
	link, err := netlink.LinkByName(linkName)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		attrs := netlink.LinkAttrs{Name: linkName}
		err = netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
			err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add link %s: %w", linkName, err)
		}
		link, err = netlink.LinkByName(linkName)
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", linkName, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", linkName, err)
		}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list addresses of %s: %w", linkName, err)
	}
	known := map[string]bool{}
	for _, a := range have {
		known[a.IP.String()] = true
	}
	for _, addr := range addrs {
		if known[addr.String()] {
			continue
		}
		a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}}
		if addr.Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("set address %s of %s: %w", addr, linkName, err)
		}
	}
	return nil
}

// deleteLink removes the link, if it is there.
func deleteLink() error {
	link, err := netlink.LinkByName(linkName)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", linkName, err)
	}
	return nil
}
