package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"keelson.dev/keelson/plugins/kit/nft"
)

// tableName is our table, one for each IP family in use.
const tableName = "keelson-proxy"

// affinitySize bounds the clients that a service port remembers.
const affinitySize = 65536

// table is what we have in the kernel for one family. Its user locks it.
type table struct {
	fam          nft.Family
	nf           *nftables.Table
	sets         [setKinds]*nftables.Set
	mark         uint32
	podCIDRs     []netip.Prefix
	serviceCIDRs []netip.Prefix

	contents map[string]*content           // by service, as in the kernel
	claims   map[element]map[string]string // what each service wants of an element
	lastID   uint32                        // of sets in the transaction
}

func newTable(fam nft.Family, mark uint32, podCIDRs, serviceCIDRs []netip.Prefix) *table {
	t := &table{fam: fam, nf: &nftables.Table{Family: fam.Table, Name: tableName}, mark: mark, contents: map[string]*content{}, claims: map[element]map[string]string{}}
	for _, p := range podCIDRs {
		if fam.Is(p.Addr()) {
			t.podCIDRs = append(t.podCIDRs, p)
		}
	}
	for _, p := range serviceCIDRs {
		if fam.Is(p.Addr()) {
			t.serviceCIDRs = append(t.serviceCIDRs, p)
		}
	}
	ip := nftables.MustConcatSetType(fam.Address, nftables.TypeInetProto, nftables.TypeInetService)
	port := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	pair := nftables.MustConcatSetType(fam.Address, fam.Address)
	for kind, s := range map[setKind]*nftables.Set{
		setServiceIPs: {Name: "service-ips", KeyType: ip, IsMap: true, DataType: nftables.TypeVerdict},
		setNodePorts:  {Name: "node-ports", KeyType: port, IsMap: true, DataType: nftables.TypeVerdict},
		setNoIPs:      {Name: "no-endpoints-ips", KeyType: ip, IsMap: true, DataType: nftables.TypeVerdict},
		setNoPorts:    {Name: "no-endpoints-node-ports", KeyType: port, IsMap: true, DataType: nftables.TypeVerdict},
		setHairpins:   {Name: "hairpins", KeyType: pair},
		setEndpoints: {Name: "endpoints", IsMap: true, DataType: t.target(),
			KeyType: nftables.MustConcatSetType(nftables.TypeInteger, nftables.TypeInteger, nftables.TypeInteger)},
		setMembers: {Name: "members", KeyType: nftables.MustConcatSetType(nftables.TypeInteger, nftables.TypeInteger, fam.Address, nftables.TypeInetService)},
	} {
		s.Table, s.ID, s.Concatenation = t.nf, uint32(kind)+1, true
		t.sets[kind] = s
	}
	return t
}

// target is the type of an endpoint in maps.
func (t *table) target() nftables.SetDatatype {
	return nftables.MustConcatSetType(t.fam.Address, nftables.TypeInetService)
}

// update brings services to what they should be, in one transaction; nil content means
// that the service is gone. It reports whether anything was sent. After an error the
// kernel has the old rules, and only replace may follow.
func (t *table) update(changes map[string]*content) (sent bool, err error) {
	conn, err := nft.NewConn()
	if err != nil {
		return false, err
	}
	if sent, err = t.write(conn, changes, nil); err != nil || !sent {
		return false, err
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("change nftables table %s: %w", tableName, err)
	}
	return true, nil
}

// replace writes the whole table anew in one transaction. Packets see the old rules or
// the new ones; what clients have for affinity is carried over.
func (t *table) replace(all map[string]*content) error {
	conn, err := nft.NewConn()
	if err != nil {
		return err
	}
	clients := t.readAffinities(conn)
	t.contents, t.claims = map[string]*content{}, map[element]map[string]string{}
	nft.ReplaceTable(conn, t.nf)
	if err := t.writeBase(conn); err != nil {
		return err
	}
	if _, err := t.write(conn, all, clients); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("replace nftables table %s: %w", tableName, err)
	}
	return nil
}

// write puts the commands for the changes into the transaction and takes them into the
// table's own state.
func (t *table) write(conn *nftables.Conn, changes map[string]*content, clients map[string][]nftables.SetElement) (bool, error) {
	t.lastID = 100
	w := &writer{table: t, conn: conn, clients: clients}
	touched := map[element]string{} // and the verdict it had, "?" for none
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		old, now := t.contents[key], changes[key]
		if old == nil {
			old = &content{}
		}
		if now == nil {
			now = &content{}
			delete(t.contents, key)
		} else {
			t.contents[key] = now
		}
		w.compareChains(old, now)
		for e := range old.elements {
			t.touch(touched, e)
			delete(t.claims[e], key)
			if len(t.claims[e]) == 0 {
				delete(t.claims, e)
			}
		}
		for e, verdict := range now.elements {
			t.touch(touched, e)
			if t.claims[e] == nil {
				t.claims[e] = map[string]string{}
			}
			t.claims[e][key] = verdict
		}
	}
	w.compareElements(touched)
	return w.send()
}

// effective is what an element does. Two services may want the same external address:
// the one whose name is first has it.
func (t *table) effective(e element) (verdict string, ok bool) {
	claims := t.claims[e]
	if len(claims) == 0 {
		return "", false
	}
	first := ""
	for key := range claims {
		if first == "" || key < first {
			first = key
		}
	}
	return claims[first], true
}

const absent = "?"

func (t *table) touch(touched map[element]string, e element) {
	if _, seen := touched[e]; seen {
		return
	}
	touched[e] = absent
	if v, ok := t.effective(e); ok {
		touched[e] = v
	}
}

// writer collects a transaction.
type writer struct {
	table   *table
	conn    *nftables.Conn
	clients map[string][]nftables.SetElement

	newChains      map[string]bool
	deadChains     []string
	changed        map[string]chain // new ones too
	newMaps        map[string]time.Duration
	deadMaps       []string
	removed, added [setKinds][]nftables.SetElement
}

func (w *writer) compareChains(old, now *content) {
	if w.changed == nil {
		w.newChains, w.changed, w.newMaps = map[string]bool{}, map[string]chain{}, map[string]time.Duration{}
	}
	for name, c := range now.chains {
		was, known := old.chains[name]
		if !known {
			w.newChains[name] = true
		}
		if !known || !was.equal(c) {
			w.changed[name] = c
		}
	}
	for name := range old.chains {
		if _, kept := now.chains[name]; !kept {
			w.deadChains = append(w.deadChains, name)
		}
	}
	for name, timeout := range now.affinities {
		if _, known := old.affinities[name]; !known {
			w.newMaps[name] = timeout
		}
	}
	for name := range old.affinities {
		if _, kept := now.affinities[name]; !kept {
			w.deadMaps = append(w.deadMaps, name)
		}
	}
}

func (w *writer) compareElements(touched map[element]string) {
	for e, before := range touched {
		now, ok := w.table.effective(e)
		if !ok {
			now = absent
		}
		if before == now {
			continue
		}
		if before != absent {
			w.removed[e.set] = append(w.removed[e.set], makeElement(e, before))
		}
		if now != absent {
			w.added[e.set] = append(w.added[e.set], makeElement(e, now))
		}
	}
}

func makeElement(e element, verdict string) nftables.SetElement {
	elem := nftables.SetElement{Key: []byte(e.key)}
	if e.set == setEndpoints {
		elem.Val = []byte(verdict)
		return elem
	}
	switch verdict {
	case verdictNone:
	case verdictDrop:
		elem.VerdictData = &expr.Verdict{Kind: expr.VerdictDrop}
	default: // the chain named "reject" is one of ours
		elem.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: verdict}
	}
	return elem
}

// send writes the commands. Order matters to the kernel: chains exist before something
// leads to them, and nothing leads to them when they are deleted.
func (w *writer) send() (bool, error) {
	t, sent := w.table, false
	for kind, elems := range w.removed {
		sent = sent || len(elems) > 0
		if err := nft.DeleteElements(w.conn, t.sets[kind], elems); err != nil {
			return false, err
		}
	}
	for name, timeout := range w.newMaps {
		sent = true
		set := t.affinitySet(name, timeout)
		if err := w.conn.AddSet(set, nil); err != nil {
			return false, fmt.Errorf("add nftables map %s: %w", name, err)
		}
		if err := nft.AddElements(w.conn, set, w.clients[name]); err != nil {
			return false, err
		}
	}
	for name := range w.newChains {
		w.conn.AddChain(t.chain(name))
	}
	for _, name := range w.deadChains {
		w.conn.FlushChain(t.chain(name))
	}
	for _, name := range slices.Sorted(maps.Keys(w.changed)) {
		if !w.newChains[name] {
			w.conn.FlushChain(t.chain(name))
		}
		t.writeChain(w.conn, name, w.changed[name])
	}
	for _, name := range w.deadChains {
		w.conn.DelChain(t.chain(name))
	}
	for _, name := range w.deadMaps {
		w.conn.DelSet(&nftables.Set{Table: t.nf, Name: name})
	}
	for kind, elems := range w.added {
		sent = sent || len(elems) > 0
		if err := nft.AddElements(w.conn, t.sets[kind], elems); err != nil {
			return false, err
		}
	}
	return sent || len(w.newChains)+len(w.deadChains)+len(w.changed)+len(w.deadMaps) > 0, nil
}

func (t *table) chain(name string) *nftables.Chain { return &nftables.Chain{Table: t.nf, Name: name} }

func (t *table) affinitySet(name string, timeout time.Duration) *nftables.Set {
	t.lastID++
	return &nftables.Set{Table: t.nf, ID: t.lastID, Name: name, IsMap: true, Dynamic: true, HasTimeout: true, Timeout: timeout,
		Size: affinitySize, KeyType: t.fam.Address, DataType: t.target()}
}

// readAffinities lists what clients have, for the next table; what cannot be read is
// lost, and those clients choose anew.
func (t *table) readAffinities(conn *nftables.Conn) map[string][]nftables.SetElement {
	sets, err := conn.GetSets(t.nf)
	if err != nil {
		return nil
	}
	clients := map[string][]nftables.SetElement{}
	for _, s := range sets {
		if !strings.HasPrefix(s.Name, "affinity-") {
			continue
		}
		elems, err := conn.GetSetElements(s)
		if err != nil {
			continue
		}
		for _, e := range elems {
			if e.Expires > 0 {
				clients[s.Name] = append(clients[s.Name], nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: e.Expires})
			}
		}
	}
	return clients
}

// intact says whether the kernel still has our chains; "nft flush ruleset" takes them.
func (t *table) intact() (bool, error) {
	conn, err := nft.NewConn()
	if err != nil {
		return false, err
	}
	chains, err := conn.ListChainsOfTableFamily(t.fam.Table)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	got, want := 0, len(baseChains)
	for _, c := range chains {
		if c.Table.Name == tableName {
			got++
		}
	}
	for _, c := range t.contents {
		want += len(c.chains)
	}
	return got == want, nil
}

// deleteTables removes our tables.
func deleteTables() error {
	return errors.Join(nft.DeleteTable(nftables.TableFamilyIPv4, tableName), nft.DeleteTable(nftables.TableFamilyIPv6, tableName))
}
