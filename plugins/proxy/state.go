package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"keelson.dev/keelson/plugins/kit/nft"
)

// setKind is one of the table's named sets.
type setKind int

const (
	setServiceIPs setKind = iota // address . protocol . port : goto chain
	setNodePorts                 // protocol . port : goto chain
	setNoIPs                     // address . protocol . port : reject or drop
	setNoPorts                   // protocol . port : reject or drop
	setHairpins                  // address . address, of endpoints on this node
	setEndpoints                 // chain . number : address . port
	setMembers                   // chain . address . port, of chains with affinity
	setKinds
)

// What an element of a verdict map may do, beside going to a chain.
const (
	verdictReject = "reject"
	verdictDrop   = "drop"
	verdictNone   = "" // a set that is no map
)

// element is a key in one of the sets.
type element struct {
	set setKind
	key string // raw bytes
}

// chain is what one of a service's chains does, in this order. Equal chains need no
// change.
type chain struct {
	allow      []netip.Prefix // others than these and the node are dropped
	next       string         // where those allowed go on
	markAll    bool           // masquerade
	markOthers bool           // masquerade what does not come from pods
	inside     string         // where connections from pods and the node go on
	endpoints  []endpoint
	affinity   string // name of the map from clients to endpoints, "" for none
	seconds    int    // how long it remembers
}

func (c chain) equal(d chain) bool {
	return slices.Equal(c.allow, d.allow) && c.next == d.next && c.markAll == d.markAll && c.markOthers == d.markOthers &&
		c.inside == d.inside && c.affinity == d.affinity && c.seconds == d.seconds && len(c.endpoints) == len(d.endpoints) &&
		(len(c.endpoints) > 1 || slices.Equal(c.endpoints, d.endpoints)) // several are in setEndpoints, not in the rules
}

// chainID is how a chain is named in setEndpoints and setMembers: eight bytes.
func chainID(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:8]
}

func endpointData(e endpoint) []byte { return nft.Key(e.addr.AsSlice(), nft.Port(e.port)) }

// content is what a service has in the kernel, in one family.
type content struct {
	chains     map[string]chain
	elements   map[element]string // what it does: a chain's name, one of the verdicts, or data
	affinities map[string]time.Duration
	udp        map[netip.AddrPort][]endpoint // UDP addresses, and where they lead
	udpNode    map[uint16][]endpoint         // the same for node ports
}

var chainNames = base32.StdEncoding.WithPadding(base32.NoPadding)

// short names chains: 16 letters for any service port.
func short(id string) string {
	sum := sha256.Sum256([]byte(id))
	return strings.ToLower(chainNames.EncodeToString(sum[:10]))
}

func ipKey(addr netip.Addr, proto byte, port uint16) string {
	return string(nft.Key(addr.AsSlice(), []byte{proto}, nft.Port(port)))
}

func portKey(proto byte, port uint16) string {
	return string(nft.Key([]byte{proto}, nft.Port(port)))
}

// newContent renders the ports of a service.
func newContent(ports []servicePort, nodeAddresses []netip.Addr) *content {
	if len(ports) == 0 {
		return nil
	}
	c := &content{
		chains: map[string]chain{}, elements: map[element]string{}, affinities: map[string]time.Duration{},
		udp: map[netip.AddrPort][]endpoint{}, udpNode: map[uint16][]endpoint{},
	}
	for i := range ports {
		c.add(&ports[i])
		for _, e := range ports[i].local {
			if !slices.Contains(nodeAddresses, e.addr) {
				c.elements[element{setHairpins, string(nft.Key(e.addr.AsSlice(), e.addr.AsSlice()))}] = verdictNone
			}
		}
	}
	for name, ch := range c.chains {
		c.addEndpoints(name, ch)
	}
	return c
}

// addEndpoints puts a chain's endpoints into sets that all chains share. A set for each
// chain would be simpler, but the kernel finds sets by walking a list: 5000 services took
// ten seconds to write.
func (c *content) addEndpoints(name string, ch chain) {
	id := chainID(name)
	for i, e := range ch.endpoints {
		if len(ch.endpoints) > 1 {
			key := nft.Key(id, binary.NativeEndian.AppendUint32(nil, uint32(i)))
			c.elements[element{setEndpoints, string(key)}] = string(endpointData(e))
		}
		if ch.affinity != "" {
			c.elements[element{setMembers, string(append(nft.Key(id), endpointData(e)...))}] = verdictNone
		}
	}
}

func (c *content) add(sp *servicePort) {
	name := short(sp.id)
	base := chain{}
	if sp.affinitySeconds > 0 && len(sp.all) > 0 {
		base.affinity, base.seconds = fmt.Sprintf("affinity-%s-%d", name, sp.affinitySeconds), sp.affinitySeconds
		c.affinities[base.affinity] = time.Duration(sp.affinitySeconds) * time.Second
	}
	c.addInternal(sp, "service-"+name, base)
	if sp.nodePort != 0 || len(sp.external) > 0 || len(sp.balancers) > 0 {
		c.addExternal(sp, name, base)
	}
}

// addInternal leads the cluster IP to endpoints.
func (c *content) addInternal(sp *servicePort, name string, base chain) {
	targets := sp.all
	if sp.internalLocal {
		targets = sp.local
	}
	key := ipKey(sp.clusterIP, sp.proto, sp.port)
	switch {
	case len(targets) > 0:
		base.endpoints, base.markOthers = targets, true
		c.chains[name] = base
		c.elements[element{setServiceIPs, key}] = name
	case len(sp.all) > 0: // elsewhere: the client should try again
		c.elements[element{setNoIPs, key}] = verdictDrop
	default:
		c.elements[element{setNoIPs, key}] = verdictReject
	}
	c.noteUDP(sp, []netip.Addr{sp.clusterIP}, 0, targets)
}

// addExternal leads node ports and external addresses to endpoints.
func (c *content) addExternal(sp *servicePort, name string, base chain) {
	targets, missing := sp.all, verdictReject
	if sp.externalLocal {
		targets = sp.local
		if len(sp.all) > 0 {
			missing = verdictDrop
		}
	}
	external := "external-" + name
	if len(sp.all) > 0 {
		entry := base
		entry.endpoints, entry.markAll = targets, !sp.externalLocal
		if sp.externalLocal {
			// Inside the cluster an external address is as good as the cluster IP.
			everywhere := base
			everywhere.endpoints = sp.all
			c.chains["cluster-"+name] = everywhere
			entry.inside = "cluster-" + name
		}
		c.chains[external] = entry
	}
	balancer := external
	if len(sp.sourceRanges) > 0 && len(sp.all) > 0 {
		balancer = "firewall-" + name
		c.chains[balancer] = chain{allow: sp.sourceRanges, next: external}
	}
	lead := func(some, none setKind, key, to string) {
		if len(sp.all) > 0 {
			c.elements[element{some, key}] = to
		}
		if len(targets) == 0 {
			c.elements[element{none, key}] = missing
		}
	}
	for _, addr := range sp.balancers {
		lead(setServiceIPs, setNoIPs, ipKey(addr, sp.proto, sp.port), balancer)
	}
	for _, addr := range sp.external {
		lead(setServiceIPs, setNoIPs, ipKey(addr, sp.proto, sp.port), external)
	}
	if sp.nodePort != 0 {
		lead(setNodePorts, setNoPorts, portKey(sp.proto, sp.nodePort), external)
	}
	c.noteUDP(sp, append(slices.Clone(sp.external), sp.balancers...), sp.nodePort, sp.all)
}

func (c *content) noteUDP(sp *servicePort, addrs []netip.Addr, nodePort uint16, targets []endpoint) {
	if sp.proto != nft.Proto("UDP") {
		return
	}
	for _, a := range addrs {
		c.udp[netip.AddrPortFrom(a, sp.port)] = targets
	}
	if nodePort != 0 {
		c.udpNode[nodePort] = targets
	}
}
