package sim

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// maxRange bounds how many addresses of a node's range are used: more than there are
// pods on any node.
const maxRange = 1024

// addresses are those of one node's pods.
type addresses struct {
	prefix netip.Prefix
	size   int      // usable ones
	used   []uint64 // a bit for each
	next   int      // where the search begins: an address is not used again at once
}

// use makes a the addresses of a range. Those given out before stay with their pods.
func (a *addresses) use(prefix netip.Prefix) {
	if a.prefix == prefix {
		return
	}
	host := prefix.Addr().BitLen() - prefix.Bits()
	size := maxRange
	if host < 10 {
		size = max(1<<host-2, 0) // without the network's address and the last
	}
	*a = addresses{prefix: prefix, size: size, used: make([]uint64, (size+63)/64)}
}

// take gives an address that is free; ok is false when there is none.
func (a *addresses) take() (ip netip.Addr, ok bool) {
	for i := range a.size {
		n := (a.next + i) % a.size
		if a.used[n/64] == ^uint64(0) {
			continue
		}
		if a.used[n/64]&(1<<(n%64)) == 0 {
			a.used[n/64] |= 1 << (n % 64)
			a.next = (n + 1) % a.size
			return offset(a.prefix.Addr(), n+1), true
		}
	}
	return netip.Addr{}, false
}

// reserve marks an address as used, if it is of this range.
func (a *addresses) reserve(ip netip.Addr) {
	if n, ok := a.number(ip); ok {
		a.used[n/64] |= 1 << (n % 64)
	}
}

// free gives an address back, if it is of this range.
func (a *addresses) free(ip netip.Addr) {
	if n, ok := a.number(ip); ok {
		a.used[n/64] &^= 1 << (n % 64)
	}
}

// inUse counts.
func (a *addresses) inUse() int {
	n := 0
	for _, word := range a.used {
		n += bits.OnesCount64(word)
	}
	return n
}

func (a *addresses) number(ip netip.Addr) (int, bool) {
	if !ip.IsValid() || !a.prefix.IsValid() || !a.prefix.Contains(ip) {
		return 0, false
	}
	x, y := ip.As16(), a.prefix.Addr().As16()
	n := int(binary.BigEndian.Uint32(x[12:])-binary.BigEndian.Uint32(y[12:])) - 1
	return n, n >= 0 && n < a.size
}

// offset is the address n after base; n is below 2^32.
func offset(base netip.Addr, n int) netip.Addr {
	b := base.As16()
	binary.BigEndian.PutUint32(b[12:], binary.BigEndian.Uint32(b[12:])+uint32(n))
	ip := netip.AddrFrom16(b)
	if base.Is4() {
		return ip.Unmap()
	}
	return ip
}
