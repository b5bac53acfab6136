package scheduler

import (
	"k8s.io/apimachinery/pkg/labels"
)

// Below minNodes the search looks at all nodes. Above, it ends when enough
// suit: a good place among many is found as well among some.
const minNodes = 100

// decision is what became of one pod.
type decision struct {
	node    string // "" if none
	message string // why none
	blame   filterSet
	nodes   int
	placed  bool // it had a node already
}

// decide finds a node for the pod and takes its resources there, in one step
// under the cache's lock.
func (c *nodeCache) decide(p *podInfo, percentage int, namespaces namespaceLabels, services func() []labels.Selector) decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Somebody else may have bound it while it waited for us.
	if c.pods[p.pod.UID] != nil {
		return decision{placed: true}
	}
	d := c.decideLocked(p, percentage, namespaces, services)
	if d.node != "" {
		c.assumeLocked(p, d.node)
	}
	return d
}

// decideLocked finds a node for a pod that has none.
func (c *nodeCache) decideLocked(p *podInfo, percentage int, namespaces namespaceLabels, services func() []labels.Selector) decision {
	total := len(c.list)
	a := newAttempt(c, p, namespaces)
	feasible := c.search(a, percentage)
	if len(feasible) == 0 {
		if a.blame == 0 {
			a.blame = allFilters
		}
		return decision{message: a.message(total), blame: a.blame, nodes: total}
	}
	var selectors []labels.Selector
	if p.owner == "" && len(feasible) > 1 {
		selectors = services()
	}
	n := best(c, a, feasible, selectors)
	return decision{node: n.name, nodes: total}
}

func (c *nodeCache) search(a *attempt, percentage int) []*nodeInfo {
	if a.invalid != nil {
		return nil
	}
	total := len(c.list)
	want := enough(total, percentage)
	feasible := make([]*nodeInfo, 0, want)
	start, looked := c.next, 0
	for ; looked < total && len(feasible) < want; looked++ {
		n := c.list[(start+looked)%total]
		if a.fits(n) {
			feasible = append(feasible, n)
		}
	}
	// The next pod begins where this one stopped, so that all nodes get a turn.
	if total > 0 {
		c.next = (start + looked) % total
	}
	return feasible
}

// enough is how many suitable nodes end the search.
func enough(total, percentage int) int {
	if total < minNodes {
		return total
	}
	if percentage == 0 {
		percentage = max(50-total/125, 5)
	}
	return min(total, max(minNodes, total*percentage/100))
}
