package nft

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Family is what differs between IPv4 and IPv6 in rules.
type Family struct {
	// Table is the family of tables of its own.
	Table nftables.TableFamily
	// NFProto is the family's number in NAT statements.
	NFProto uint32
	// Address is the type of an address in sets.
	Address nftables.SetDatatype
	// Registers that an address takes.
	Registers int
	source    uint32
	dest      uint32
	length    uint32
}

// IPv4 and IPv6 are the two families.
var (
	IPv4 = Family{Table: nftables.TableFamilyIPv4, NFProto: unix.NFPROTO_IPV4, Address: nftables.TypeIPAddr, Registers: 1, source: 12, dest: 16, length: 4}
	IPv6 = Family{Table: nftables.TableFamilyIPv6, NFProto: unix.NFPROTO_IPV6, Address: nftables.TypeIP6Addr, Registers: 4, source: 8, dest: 24, length: 16}
)

// Is says whether an address is of the family.
func (f Family) Is(addr netip.Addr) bool { return addr.Is4() == (f.NFProto == unix.NFPROTO_IPV4) }

// Reg is the nth register of 32 bits.
func Reg(n int) uint32 { return uint32(unix.NFT_REG32_00 + n) }

// Rule joins groups of expressions to one rule's.
func Rule(groups ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

// SourceAddress loads the source address into the register and those after it.
func (f Family) SourceAddress(reg int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: Reg(reg), Base: expr.PayloadBaseNetworkHeader, Offset: f.source, Len: f.length}}
}

// DestAddress loads the destination address into the register and those after it.
func (f Family) DestAddress(reg int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: Reg(reg), Base: expr.PayloadBaseNetworkHeader, Offset: f.dest, Len: f.length}}
}

// L4Proto loads the transport protocol's number.
func L4Proto(reg int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: Reg(reg)}}
}

// DestPort loads the destination port of TCP, UDP or SCTP.
func DestPort(reg int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: Reg(reg), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// Equal goes on if the register has the value; NotEqual if it has not.
func Equal(reg int, value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: Reg(reg), Data: value}}
}

// NotEqual goes on if the register has another value.
func NotEqual(reg int, value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: Reg(reg), Data: value}}
}

// SourceIn goes on if the source address is in the range.
func (f Family) SourceIn(p netip.Prefix) []expr.Any {
	return f.inPrefix(f.SourceAddress(0), p, expr.CmpOpEq)
}

// SourceNotIn goes on if the source address is not in the range.
func (f Family) SourceNotIn(p netip.Prefix) []expr.Any {
	return f.inPrefix(f.SourceAddress(0), p, expr.CmpOpNeq)
}

// DestIn goes on if the destination address is in the range.
func (f Family) DestIn(p netip.Prefix) []expr.Any {
	return f.inPrefix(f.DestAddress(0), p, expr.CmpOpEq)
}

// DestNotIn goes on if the destination address is not in the range.
func (f Family) DestNotIn(p netip.Prefix) []expr.Any {
	return f.inPrefix(f.DestAddress(0), p, expr.CmpOpNeq)
}

func (f Family) inPrefix(load []expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	p = p.Masked()
	mask := make([]byte, f.length)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(load,
		&expr.Bitwise{SourceRegister: Reg(0), DestRegister: Reg(0), Len: f.length, Mask: mask, Xor: make([]byte, f.length)},
		&expr.Cmp{Op: op, Register: Reg(0), Data: p.Addr().AsSlice()})
}

// Loopback is the family's range of loopback addresses.
func (f Family) Loopback() netip.Prefix {
	if f.NFProto == unix.NFPROTO_IPV4 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// DestLocal goes on if the destination is an address of this machine (of the network
// namespace).
func DestLocal() []expr.Any { return fibType(&expr.Fib{FlagDADDR: true}, expr.CmpOpEq) }

// DestNotLocal goes on if the destination is no address of this machine.
func DestNotLocal() []expr.Any { return fibType(&expr.Fib{FlagDADDR: true}, expr.CmpOpNeq) }

// SourceLocal goes on if the source is an address of this machine.
func SourceLocal() []expr.Any { return fibType(&expr.Fib{FlagSADDR: true}, expr.CmpOpEq) }

func fibType(fib *expr.Fib, op expr.CmpOp) []expr.Any {
	fib.Register, fib.ResultADDRTYPE = Reg(0), true
	return []expr.Any{fib, &expr.Cmp{Op: op, Register: Reg(0), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

// NewConnection goes on for packets that begin a connection.
func NewConnection() []expr.Any { return conntrack(expr.CtKeySTATE, expr.CtStateBitNEW, true) }

// statusDNAT is IPS_DST_NAT of the kernel's nf_conntrack_common.h.
const statusDNAT = 1 << 5

// Translated goes on for packets whose destination was translated.
func Translated() []expr.Any { return conntrack(expr.CtKeySTATUS, statusDNAT, true) }

// NotTranslated goes on for packets whose destination was not translated.
func NotTranslated() []expr.Any { return conntrack(expr.CtKeySTATUS, statusDNAT, false) }

func conntrack(key expr.CtKey, bits uint32, want bool) []expr.Any {
	op := expr.CmpOpEq
	if want {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Ct{Key: key, Register: Reg(0)},
		&expr.Bitwise{SourceRegister: Reg(0), DestRegister: Reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: Reg(0), Data: make([]byte, 4)},
	}
}

// SetMark sets bits of the packet's mark.
func SetMark(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: Reg(0)},
		&expr.Bitwise{SourceRegister: Reg(0), DestRegister: Reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^bits), Xor: binaryutil.NativeEndian.PutUint32(bits)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: Reg(0)},
	}
}

// Marked goes on if one of the bits of the mark is set, and clears them.
func Marked(bits uint32) []expr.Any {
	mask := binaryutil.NativeEndian.PutUint32(bits)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: Reg(0)},
		&expr.Bitwise{SourceRegister: Reg(0), DestRegister: Reg(1), Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: Reg(1), Data: make([]byte, 4)},
		&expr.Bitwise{SourceRegister: Reg(0), DestRegister: Reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^bits), Xor: make([]byte, 4)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: Reg(0)},
	}
}

// Output goes on if the packet leaves by the link; NotOutput if by another.
func Output(link string) []expr.Any { return linkName(expr.MetaKeyOIFNAME, link, expr.CmpOpEq) }

// NotOutput goes on if the packet leaves by another link.
func NotOutput(link string) []expr.Any { return linkName(expr.MetaKeyOIFNAME, link, expr.CmpOpNeq) }

// Input goes on if the packet came by the link.
func Input(link string) []expr.Any { return linkName(expr.MetaKeyIIFNAME, link, expr.CmpOpEq) }

func linkName(key expr.MetaKey, link string, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return []expr.Any{&expr.Meta{Key: key, Register: Reg(0)}, &expr.Cmp{Op: op, Register: Reg(0), Data: name}}
}

// Masquerade gives the packet the address of the link by which it leaves.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

// DNAT sends the packet to the address in register addr and the port in register port.
func (f Family) DNAT(addr, port int) []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.NFProto, RegAddrMin: Reg(addr), RegProtoMin: Reg(port), Specified: true}}
}

// Lookup goes on if the key in the register is in the set.
func Lookup(set *nftables.Set, key int) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: Reg(key), SetName: set.Name, SetID: set.ID}}
}

// LookupNot goes on if the key in the register is not in the set.
func LookupNot(set *nftables.Set, key int) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: Reg(key), SetName: set.Name, SetID: set.ID, Invert: true}}
}

// Map loads what the map has for the key into register dest, and ends the rule if
// there is nothing.
func Map(set *nftables.Set, key, dest int) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: Reg(key), SetName: set.Name, SetID: set.ID, IsDestRegSet: true, DestRegister: Reg(dest)}}
}

// VerdictMap does what the map has for the key, and ends the rule if there is nothing.
func VerdictMap(set *nftables.Set, key int) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: Reg(key), SetName: set.Name, SetID: set.ID, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}}
}

// Jump goes on in the other chain and comes back at its end.
func Jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// Goto goes on in the other chain and does not come back.
func Goto(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

// Drop drops the packet.
func Drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Accept ends this table's chain of the hook.
func Accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Return goes back to where the chain was called.
func Return() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }

// Reject answers with "port unreachable", which connecting clients see as refused.
func Reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

// RejectIn is Reject in a table of the family (ICMPX is for inet tables alone).
func (f Family) RejectIn() []expr.Any {
	code := uint8(3) // ICMP_PORT_UNREACH
	if f.NFProto == unix.NFPROTO_IPV6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}}
}

// Reset answers a TCP packet with a reset; the rule checks the protocol before.
func Reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// Port is a port as rules and elements hold it.
func Port(p uint16) []byte { return binaryutil.BigEndian.PutUint16(p) }

// Pad fills a field of an element's key or value to whole registers.
func Pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Key joins fields to a key or value, each in whole registers.
func Key(fields ...[]byte) []byte {
	var key []byte
	for _, f := range fields {
		key = append(key, Pad(append([]byte(nil), f...))...)
	}
	return key
}

// Proto is the number of "TCP", "UDP" or "SCTP", and 0 for others.
func Proto(name string) byte {
	switch name {
	case "TCP":
		return unix.IPPROTO_TCP
	case "UDP":
		return unix.IPPROTO_UDP
	case "SCTP":
		return unix.IPPROTO_SCTP
	}
	return 0
}
