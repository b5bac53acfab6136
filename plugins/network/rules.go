package network

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/nft"
)

// tableName is our table, one for each IP family in use.
const tableName = "keelson-network"

// natPriority is before the service proxy's (-100): a host port is the nearer address.
const natPriority = -105

// rules is the table of one family. The commands of a change go in one transaction.
type rules struct {
	fam      nft.Family
	table    *nftables.Table
	anyHost  *nftables.Set // protocol . port -> pod . port
	oneHost  *nftables.Set // address . protocol . port -> pod . port
	hairpins *nftables.Set // pod . pod, for pods with host ports
}

func newRules(fam nft.Family) *rules {
	table := &nftables.Table{Family: fam.Table, Name: tableName}
	target := nftables.MustConcatSetType(fam.Address, nftables.TypeInetService)
	return &rules{
		fam: fam, table: table,
		anyHost: &nftables.Set{Table: table, ID: 1, Name: "hostports", IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)},
		oneHost: &nftables.Set{Table: table, ID: 2, Name: "hostports-address", IsMap: true, Concatenation: true, DataType: target,
			KeyType: nftables.MustConcatSetType(fam.Address, nftables.TypeInetProto, nftables.TypeInetService)},
		hairpins: &nftables.Set{Table: table, ID: 3, Name: "hairpins", Concatenation: true,
			KeyType: nftables.MustConcatSetType(fam.Address, fam.Address)},
	}
}

// elements are what a sandbox puts into the three sets.
type elements struct{ anyHost, oneHost, hairpins []nftables.SetElement }

func (r *rules) elements(sb *sandbox) elements {
	var e elements
	for _, addr := range sb.Addresses {
		if !r.fam.Is(addr) {
			continue
		}
		for _, p := range sb.Ports {
			proto := []byte{nft.Proto(p.Protocol)}
			target := nft.Key(addr.AsSlice(), nft.Port(p.ContainerPort))
			switch {
			case !p.HostIP.IsValid() || p.HostIP.IsUnspecified():
				e.anyHost = append(e.anyHost, nftables.SetElement{Key: nft.Key(proto, nft.Port(p.HostPort)), Val: target})
			case r.fam.Is(p.HostIP):
				e.oneHost = append(e.oneHost, nftables.SetElement{Key: nft.Key(p.HostIP.AsSlice(), proto, nft.Port(p.HostPort)), Val: target})
			}
		}
		if len(e.anyHost)+len(e.oneHost) > 0 {
			e.hairpins = append(e.hairpins, nftables.SetElement{Key: nft.Key(addr.AsSlice(), addr.AsSlice())})
		}
	}
	return e
}

// replace writes the whole table in one transaction.
func (r *rules) replace(podCIDRs []netip.Prefix, masquerade bool, sandboxes map[string]*sandbox) error {
	conn, err := nft.NewConn()
	if err != nil {
		return err
	}
	nft.ReplaceTable(conn, r.table)
	var all elements
	for _, sb := range sandboxes {
		e := r.elements(sb)
		all.anyHost = append(all.anyHost, e.anyHost...)
		all.oneHost = append(all.oneHost, e.oneHost...)
		all.hairpins = append(all.hairpins, e.hairpins...)
	}
	for set, elems := range map[*nftables.Set][]nftables.SetElement{r.anyHost: all.anyHost, r.oneHost: all.oneHost, r.hairpins: all.hairpins} {
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add nftables set %s: %w", set.Name, err)
		}
		if err := nft.AddElements(conn, set, elems); err != nil {
			return err
		}
	}
	r.addChains(conn, podCIDRs, masquerade)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace nftables table %s: %w", tableName, err)
	}
	return nil
}

func (r *rules) addChains(conn *nftables.Conn, podCIDRs []netip.Prefix, masquerade bool) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook,
			Priority: new(nftables.ChainPriority(priority))})
	}
	add := func(c *nftables.Chain, groups ...[]expr.Any) {
		conn.AddRule(&nftables.Rule{Table: r.table, Chain: c, Exprs: nft.Rule(groups...)})
	}
	n := r.fam.Registers
	for _, c := range []*nftables.Chain{
		base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, natPriority),
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, natPriority),
	} {
		// A loopback source could not leave by the bridge.
		add(c, r.fam.DestNotIn(r.fam.Loopback()), nft.DestLocal(), r.fam.DestAddress(0), nft.L4Proto(n), nft.DestPort(n+1),
			nft.Map(r.oneHost, 0, 8), r.fam.DNAT(8, 8+n))
		add(c, r.fam.DestNotIn(r.fam.Loopback()), nft.DestLocal(), nft.L4Proto(0), nft.DestPort(1),
			nft.Map(r.anyHost, 0, 8), r.fam.DNAT(8, 8+n))
	}
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	add(post, r.fam.SourceAddress(0), r.fam.DestAddress(n), nft.Lookup(r.hairpins, 0), nft.Masquerade())
	for _, cidr := range podCIDRs {
		if masquerade && r.fam.Is(cidr.Addr()) {
			add(post, nft.NotOutput(bridgeName), r.fam.SourceIn(cidr), r.fam.DestNotIn(cidr), r.fam.DestNotIn(r.multicast()), nft.Masquerade())
		}
	}
	// Pods talk to each other by way of the gateway, on purpose: no advice to go direct.
	filter := base("redirects", nftables.ChainTypeFilter, nftables.ChainHookOutput, 0)
	proto, kind := byte(unix.IPPROTO_ICMP), byte(5)
	if r.fam.NFProto == unix.NFPROTO_IPV6 {
		proto, kind = unix.IPPROTO_ICMPV6, 137
	}
	add(filter, nft.Output(bridgeName), nft.L4Proto(0), nft.Equal(0, []byte{proto}),
		[]expr.Any{&expr.Payload{DestRegister: nft.Reg(0), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}},
		nft.Equal(0, []byte{kind}), nft.Drop())
}

func (r *rules) multicast() netip.Prefix {
	if r.fam.NFProto == unix.NFPROTO_IPV4 {
		return netip.MustParsePrefix("224.0.0.0/4")
	}
	return netip.MustParsePrefix("ff00::/8")
}

// change takes away what the old sandbox had and adds what the new one has; either may
// be nil. Nothing is sent if neither has host ports.
func (r *rules) change(old, now *sandbox) error {
	var before, after elements
	if old != nil {
		before = r.elements(old)
	}
	if now != nil {
		after = r.elements(now)
	}
	conn, err := nft.NewConn()
	if err != nil {
		return err
	}
	for _, s := range []struct {
		set         *nftables.Set
		before, now []nftables.SetElement
	}{{r.anyHost, before.anyHost, after.anyHost}, {r.oneHost, before.oneHost, after.oneHost}, {r.hairpins, before.hairpins, after.hairpins}} {
		// Adding first makes deleting safe if the element is not there.
		if err := nft.AddElements(conn, s.set, s.before); err != nil {
			return err
		}
		if err := nft.DeleteElements(conn, s.set, s.before); err != nil {
			return err
		}
		if err := nft.AddElements(conn, s.set, s.now); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change host ports: %w", err)
	}
	return nil
}
