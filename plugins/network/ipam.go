package network

import (
	"errors"
	"fmt"
	"net/netip"
)

// errExhausted means that a range has no free address.
var errExhausted = errors.New("no address is free")

// pool gives out the addresses of one range, in turn, so that an address that was freed
// is used again as late as possible. Not given out: the range's own address, the first
// one (the gateway) and, in IPv4, the last one (broadcast). Its user locks it.
type pool struct {
	prefix  netip.Prefix
	gateway netip.Addr
	last    netip.Addr // given out last
	used    map[netip.Addr]string
}

func newPool(prefix netip.Prefix) *pool {
	prefix = prefix.Masked()
	gateway := prefix.Addr().Next()
	return &pool{prefix: prefix, gateway: gateway, last: gateway, used: map[netip.Addr]string{}}
}

// take reserves the next free address for the owner.
func (p *pool) take(owner string) (netip.Addr, error) {
	addr, wrapped := p.last.Next(), false
	for {
		if !p.usable(addr) {
			if wrapped {
				return netip.Addr{}, fmt.Errorf("range %s of %d addresses: %w", p.prefix, len(p.used), errExhausted)
			}
			addr, wrapped = p.gateway.Next(), true
			continue
		}
		if _, taken := p.used[addr]; !taken {
			p.used[addr], p.last = owner, addr
			return addr, nil
		}
		addr = addr.Next()
	}
}

// keep marks an address as used by its owner; other ranges' addresses are ignored.
func (p *pool) keep(addr netip.Addr, owner string) {
	if p.usable(addr) {
		p.used[addr] = owner
		if p.last.Less(addr) {
			p.last = addr
		}
	}
}

// free gives an address back, if it is the owner's.
func (p *pool) free(addr netip.Addr, owner string) {
	if p.used[addr] == owner {
		delete(p.used, addr)
	}
}

func (p *pool) usable(addr netip.Addr) bool {
	if !addr.IsValid() || !p.prefix.Contains(addr) || !p.gateway.Less(addr) {
		return false
	}
	return !addr.Is4() || p.prefix.Contains(addr.Next()) // the last one is the broadcast address
}
