package proxy

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit/nft"
)

// Operations of a dynset expression (NFT_DYNSET_OP_*).
const (
	dynsetAdd    = 0
	dynsetUpdate = 1
	dynsetDelete = 2
)

// Registers of the rules: the client's address; the chain's ID, which is the first field
// of two keys; the second one, a random number, gives way to the endpoint that is found
// with it: its address and port.
const (
	regClient = 0
	regChain  = 6
	regRandom = 8
	regTarget = 8
)

// baseChains are the table's own chains.
var baseChains = []string{"prerouting", "output", "postrouting", "filter-input", "filter-forward", "filter-output", "services", "no-endpoints", "unassigned", verdictReject}

// writeBase makes what does not depend on services.
func (t *table) writeBase(conn *nftables.Conn) error {
	for _, set := range t.sets {
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("add nftables set %s: %w", set.Name, err)
		}
	}
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32) string {
		conn.AddChain(&nftables.Chain{Name: name, Table: t.nf, Type: kind, Hooknum: hook, Priority: new(nftables.ChainPriority(priority))})
		return name
	}
	for _, name := range []string{"services", "no-endpoints", "unassigned", verdictReject} {
		conn.AddChain(t.chain(name))
	}
	n := t.fam.Registers
	t.rule(conn, "services", t.fam.DestAddress(0), nft.L4Proto(n), nft.DestPort(n+1), nft.VerdictMap(t.sets[setServiceIPs], 0))
	t.rule(conn, "services", nft.DestLocal(), t.fam.DestNotIn(t.fam.Loopback()), nft.L4Proto(0), nft.DestPort(1), nft.VerdictMap(t.sets[setNodePorts], 0))
	t.rule(conn, "no-endpoints", t.fam.DestAddress(0), nft.L4Proto(n), nft.DestPort(n+1), nft.VerdictMap(t.sets[setNoIPs], 0))
	t.rule(conn, "no-endpoints", nft.DestLocal(), t.fam.DestNotIn(t.fam.Loopback()), nft.L4Proto(0), nft.DestPort(1), nft.VerdictMap(t.sets[setNoPorts], 0))
	for _, cidr := range t.serviceCIDRs {
		// The cluster's DNS server has its address on the node itself.
		t.rule(conn, "unassigned", t.fam.DestIn(cidr), nft.DestNotLocal(), nft.Goto(verdictReject))
	}
	// TCP by reset: an ICMP error that comes back while connect() still holds the socket
	// counts for nothing, and the client waits a second for its next try.
	t.rule(conn, verdictReject, nft.L4Proto(0), nft.Equal(0, []byte{unix.IPPROTO_TCP}), nft.Reset())
	t.rule(conn, verdictReject, t.fam.RejectIn())

	t.rule(conn, base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100), nft.Jump("services"))
	t.rule(conn, base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100), nft.Jump("services"))
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	t.rule(conn, post, nft.Marked(t.mark), nft.Masquerade())
	// A pod that reaches itself through its service must not see its own address.
	t.rule(conn, post, t.fam.SourceAddress(0), t.fam.DestAddress(n), nft.Lookup(t.sets[setHairpins], 0), nft.Masquerade())

	// In output after NAT, so that only what was not translated is left.
	for name, hook := range map[string]*nftables.ChainHook{"filter-input": nftables.ChainHookInput, "filter-forward": nftables.ChainHookForward, "filter-output": nftables.ChainHookOutput} {
		base(name, nftables.ChainTypeFilter, hook, -90)
		t.rule(conn, name, nft.NewConnection(), nft.NotTranslated(), nft.Jump("no-endpoints"))
		if name != "filter-input" {
			t.rule(conn, name, nft.NewConnection(), nft.NotTranslated(), nft.Jump("unassigned"))
		}
	}
	return nil
}

func (t *table) rule(conn *nftables.Conn, chain string, groups ...[]expr.Any) {
	conn.AddRule(&nftables.Rule{Table: t.nf, Chain: t.chain(chain), Exprs: nft.Rule(groups...)})
}

// writeChain writes the rules of one of a service's chains, which is empty.
func (t *table) writeChain(conn *nftables.Conn, name string, c chain) {
	if len(c.allow) > 0 {
		for _, p := range c.allow {
			t.rule(conn, name, t.fam.SourceIn(p), nft.Goto(c.next))
		}
		t.rule(conn, name, nft.SourceLocal(), nft.Goto(c.next))
		t.rule(conn, name, nft.Drop())
		return
	}
	if c.inside != "" {
		for _, p := range t.podCIDRs {
			t.rule(conn, name, t.fam.SourceIn(p), nft.Goto(c.inside))
		}
		t.rule(conn, name, nft.SourceLocal(), nft.SetMark(t.mark), nft.Goto(c.inside))
	}
	switch {
	case c.markAll:
		t.rule(conn, name, nft.SetMark(t.mark))
	case c.markOthers && len(t.podCIDRs) > 0:
		t.rule(conn, name, t.fam.SourceNotIn(t.podCIDRs[0]), nft.SetMark(t.mark))
	}
	if len(c.endpoints) == 0 {
		return
	}
	pick := t.pick(name, c.endpoints)
	dnat := t.fam.DNAT(regTarget, regTarget+t.fam.Registers)
	if c.affinity == "" {
		t.rule(conn, name, pick, dnat)
		return
	}
	t.writeAffinity(conn, name, c, pick, dnat)
}

// writeAffinity writes three rules: a client whose endpoint is still one goes there; one
// whose endpoint has gone is forgotten; one that is not known is given an endpoint.
func (t *table) writeAffinity(conn *nftables.Conn, name string, c chain, pick, dnat []expr.Any) {
	members, clients := t.sets[setMembers], &nftables.Set{Name: c.affinity}
	known := nft.Rule(t.fam.SourceAddress(regClient), nft.Map(clients, regClient, regTarget), loadChain(name))
	remember := func(op uint32) []expr.Any {
		return []expr.Any{&expr.Dynset{SrcRegKey: nft.Reg(regClient), SrcRegData: nft.Reg(regTarget), SetName: c.affinity, Operation: op}}
	}
	t.rule(conn, name, known, nft.Lookup(members, regChain), remember(dynsetUpdate), dnat)
	t.rule(conn, name, known, nft.LookupNot(members, regChain), remember(dynsetDelete))
	t.rule(conn, name, t.fam.SourceAddress(regClient), pick, remember(dynsetAdd), dnat)
}

func loadChain(name string) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: nft.Reg(regChain), Data: chainID(name)}}
}

// pick loads an endpoint, chosen at random.
func (t *table) pick(name string, endpoints []endpoint) []expr.Any {
	if len(endpoints) == 1 {
		return []expr.Any{
			&expr.Immediate{Register: nft.Reg(regTarget), Data: endpoints[0].addr.AsSlice()},
			&expr.Immediate{Register: nft.Reg(regTarget + t.fam.Registers), Data: nft.Port(endpoints[0].port)},
		}
	}
	return nft.Rule(loadChain(name),
		[]expr.Any{&expr.Numgen{Register: nft.Reg(regRandom), Modulus: uint32(len(endpoints)), Type: unix.NFT_NG_RANDOM}},
		nft.Map(t.sets[setEndpoints], regChain, regTarget))
}
