package scheduler

// noValue is the number of a value that a node does not have.
const noValue = -1

// topoKey numbers the values of one node label, so that counts by domain are
// slices. It is made when a pod first asks for the label, and then kept.
type topoKey struct {
	key      string
	ids      map[string]int32
	nodes    []int32 // nodes by value
	labelled int     // nodes that have the label
	of       []int32 // value by node's slot
}

// topoKey is the numbering of a label; the cache must be locked.
func (c *nodeCache) topoKey(key string) *topoKey {
	k := c.keys[key]
	if k != nil {
		return k
	}
	k = &topoKey{key: key, ids: map[string]int32{}, of: make([]int32, len(c.slots))}
	for i := range k.of {
		k.of[i] = noValue
	}
	c.keys[key] = k
	for _, n := range c.list {
		c.moveNode(k, n)
	}
	return k
}

// moveNode takes in what label a node has now, in all that is counted by it.
func (c *nodeCache) moveNode(k *topoKey, n *nodeInfo) {
	now := int32(noValue)
	if n.node != nil {
		if value, ok := n.node.Labels[k.key]; ok {
			now = k.id(value)
		}
	}
	was := k.of[n.slot]
	if was == now {
		return
	}
	k.of[n.slot] = now
	k.shift(was, -1)
	k.shift(now, 1)
	for _, one := range c.counters {
		one.moved(k, n.slot, was, now)
	}
	for _, g := range c.groups {
		g.moved(k, n.slot, was, now)
	}
}

func (k *topoKey) id(value string) int32 {
	id, ok := k.ids[value]
	if !ok {
		id = int32(len(k.ids))
		k.ids[value] = id
		k.nodes = append(k.nodes, 0)
	}
	return id
}

func (k *topoKey) shift(value int32, by int32) {
	if value != noValue {
		k.nodes[value] += by
		k.labelled += int(by)
	}
}

// counter counts pods of one kind by node and by domain, all the time.
type counter struct {
	counts  func(p *podInfo) bool
	total   int
	perNode []int32              // by slot
	domains map[*topoKey][]int32 // by value
	used    uint64               // the attempt that asked for it last
}

func (t *counter) add(slot int, by int32) {
	for len(t.perNode) <= slot {
		t.perNode = append(t.perNode, 0)
	}
	t.total += int(by)
	t.perNode[slot] += by
	for k, counts := range t.domains {
		if value := k.of[slot]; value != noValue {
			t.domains[k] = addTo(counts, value, by)
		}
	}
}

func addTo(counts []int32, value, by int32) []int32 {
	for len(counts) <= int(value) {
		counts = append(counts, 0)
	}
	counts[value] += by
	return counts
}

func (t *counter) on(slot int) int32 {
	if slot < len(t.perNode) {
		return t.perNode[slot]
	}
	return 0
}

func (t *counter) moved(k *topoKey, slot int, was, now int32) {
	counts, ok := t.domains[k]
	if !ok || t.on(slot) == 0 {
		return
	}
	if was != noValue {
		counts = addTo(counts, was, -t.on(slot))
	}
	if now != noValue {
		counts = addTo(counts, now, t.on(slot))
	}
	t.domains[k] = counts
}

// by is the count by value of a label, as long as the label has values.
func (t *counter) by(k *topoKey) []int32 {
	counts, ok := t.domains[k]
	if !ok {
		counts = make([]int32, len(k.nodes))
		for slot, n := range t.perNode {
			if value := k.of[slot]; value != noValue {
				counts[value] += n
			}
		}
	}
	for len(counts) < len(k.nodes) {
		counts = append(counts, 0)
	}
	if t.domains == nil {
		t.domains = map[*topoKey][]int32{}
	}
	t.domains[k] = counts
	return counts
}

// maxCounters bounds the counters that no pod in the cache keeps alive; those not
// asked for the longest go first.
const maxCounters = 256

// counterFor is the counter with that name, which says all that counts depends on.
// namespace "": pods of any.
func (c *nodeCache) counterFor(name, namespace string, counts func(*podInfo) bool) *counter {
	t := c.counters[name]
	if t == nil {
		t = &counter{counts: counts, perNode: make([]int32, len(c.slots))}
		for _, n := range c.slots {
			if n == nil {
				continue
			}
			for _, p := range n.pods {
				if (namespace == "" || p.pod.Namespace == namespace) && counts(p) {
					t.add(n.slot, 1)
				}
			}
		}
		c.counters[name] = t
		if c.countersIn[namespace] == nil {
			c.countersIn[namespace] = map[string]*counter{}
		}
		c.countersIn[namespace][name] = t
	}
	t.used = c.attempts
	return t
}

// sweep drops counters that were not asked for of late, and groups without pods.
// It is called between attempts: an attempt keeps what it has found.
func (c *nodeCache) sweep() {
	c.attempts++
	if c.emptyGroups > 0 {
		for name, g := range c.groups {
			if g.total == 0 {
				delete(c.groups, name)
			}
		}
		c.emptyGroups = 0
		c.listGroups()
	}
	if len(c.counters) <= maxCounters {
		return
	}
	for namespace, all := range c.countersIn {
		for name, t := range all {
			if c.attempts-t.used > maxCounters/2 {
				delete(all, name)
				delete(c.counters, name)
			}
		}
		if len(all) == 0 {
			delete(c.countersIn, namespace)
		}
	}
}

// namespacesChanged drops the counters that depend on labels of namespaces.
func (c *nodeCache) namespacesChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.countersIn[""] {
		delete(c.counters, name)
	}
	delete(c.countersIn, "")
}

// groupKind is what a term of a pod in the cache means for others.
type groupKind byte

const (
	groupAnti     groupKind = 'a' // required: keep away
	groupRequired groupKind = 'r' // required: come near
	groupWanted   groupKind = 'w'
	groupUnwanted groupKind = 'u'
)

// termGroup counts the pods in the cache that have the same term, so that a term
// is matched with a new pod once and not once for each of them.
type termGroup struct {
	counter
	kind groupKind
	term *podTerm
	key  *topoKey
}

// enlist counts a pod's terms, or counts them off.
func (c *nodeCache) enlist(p *podInfo, n *nodeInfo, by int32) {
	if !p.social {
		return
	}
	add := func(kind groupKind, terms []podTerm) {
		for i := range terms {
			t := &terms[i]
			name := string(kind) + t.id
			g := c.groups[name]
			if g == nil {
				g = &termGroup{kind: kind, term: t, key: c.topoKey(t.key)}
				g.by(g.key)
				c.groups[name] = g
				c.listGroups()
			}
			g.add(n.slot, by)
			if g.total == 0 {
				c.emptyGroups++
			}
		}
	}
	add(groupAnti, p.requiredAnti)
	add(groupRequired, p.required)
	add(groupWanted, p.wanted)
	add(groupUnwanted, p.unwanted)
}

func (c *nodeCache) listGroups() {
	c.antiGroups, c.scoreGroups = c.antiGroups[:0], c.scoreGroups[:0]
	for _, g := range c.groups {
		if g.kind == groupAnti {
			c.antiGroups = append(c.antiGroups, g)
		} else {
			c.scoreGroups = append(c.scoreGroups, g)
		}
	}
}

// recount takes a pod that comes to a node or leaves it into all counts.
func (c *nodeCache) recount(p *podInfo, n *nodeInfo, by int32) {
	for _, t := range c.countersIn[p.pod.Namespace] {
		if t.counts(p) {
			t.add(n.slot, by)
		}
	}
	for _, t := range c.countersIn[""] {
		if t.counts(p) {
			t.add(n.slot, by)
		}
	}
	c.enlist(p, n, by)
}

// vicinity counts pods in the domain of a node.
type vicinity struct {
	key    *topoKey
	counts []int32
	weight int64
}

func (t *counter) near(k *topoKey) vicinity { return vicinity{key: k, counts: t.by(k)} }

// here is the count in the node's domain; false: the node is in none.
func (d *vicinity) here(n *nodeInfo) (int32, bool) {
	value := d.key.of[n.slot]
	if value == noValue {
		return 0, false
	}
	return d.counts[value], true
}
