package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
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
	placed  bool        // it had a node already
	parts   []concern   // reserved on the node
	err     error       // the attempt failed, whatever the nodes are like
	preempt *preemption // for a pod without a node: what else was tried; nil: nothing
}

// decide finds a node for the pod and takes its resources there, in one step
// under the cache's lock.
func (c *nodeCache) decide(ctx context.Context, p *podInfo, pr *profile) decision {
	parts, no := pr.beginParts(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	// Somebody else may have bound it while it waited for us.
	if c.pods[p.pod.UID] != nil {
		return decision{placed: true}
	}
	d := c.decideLocked(ctx, p, pr, parts, no)
	if d.node == "" {
		c.makeRoom(p, d.preempt)
		return d
	}
	for i, one := range parts {
		if err := one.state.reserve(d.node); err != nil {
			for _, done := range parts[:i+1] {
				done.state.unreserve(d.node)
			}
			return decision{nodes: d.nodes, err: err, message: err.Error()}
		}
	}
	d.parts = parts
	c.assumeLocked(p, d.node)
	return d
}

// makeRoom remembers for whom room is made where.
func (c *nodeCache) makeRoom(p *podInfo, how *preemption) {
	if how == nil || how.keep {
		return
	}
	for _, lower := range how.lower {
		c.nominate(lower, "")
	}
	c.nominate(p, how.node)
}

// decideLocked finds a node for a pod that has none.
func (c *nodeCache) decideLocked(ctx context.Context, p *podInfo, pr *profile, parts []concern, no *rejection) decision {
	a := newAttempt(c, p, pr, parts)
	if no != nil {
		a.invalid = no
	}
	feasible, why := c.search(a)
	scores, err := c.narrow(ctx, a, &feasible, why)
	if err != nil {
		return decision{nodes: len(c.list), err: err, message: err.Error()}
	}
	if len(feasible) == 0 {
		return c.nowhere(a, why)
	}
	return decision{node: best(c, a, feasible, scores).name, nodes: len(c.list)}
}

// nowhere is the decision on a pod that no node will do for.
func (c *nodeCache) nowhere(a *attempt, why *account) decision {
	d := decision{nodes: len(c.list), message: why.message(len(c.list), a.invalid), blame: why.blame}
	if a.invalid != nil {
		d.blame = a.invalid.filter
	}
	if d.blame == 0 {
		d.blame = allFilters
	}
	if !a.profile.preemption.off && len(c.list) > 0 {
		d.preempt = c.preempt(a, why.helpable)
		if d.preempt.message != "" {
			d.message += " preemption: " + d.preempt.message
		}
	}
	return d
}

// narrow lets the parts that can look at all nodes at once do so. As the lock is
// let go for that, the nodes are looked at again then.
func (c *nodeCache) narrow(ctx context.Context, a *attempt, feasible *[]*nodeInfo, why *account) (map[string]int64, error) {
	var sums map[string]int64
	for _, one := range a.parts {
		part, ok := one.state.(partNarrower)
		if !ok || len(*feasible) == 0 {
			continue
		}
		nodes := make([]*corev1.Node, len(*feasible))
		for i, n := range *feasible {
			nodes[i] = n.node
		}
		c.mu.Unlock()
		got, err := part.narrow(ctx, nodes)
		c.mu.Lock()
		if err != nil {
			return nil, err
		}
		*a = *newAttempt(c, a.pod, a.profile, a.parts)
		var kept []*nodeInfo
		for _, n := range *feasible {
			no := got.rejected[n.name]
			if no != nil {
				no.filter |= one.part.filter()
			} else if n.node != nil {
				no = a.fits(n)
			}
			switch {
			case no != nil:
				why.add(no)
			case n.node != nil:
				kept = append(kept, n)
			}
		}
		*feasible = kept
		for name, score := range got.scores {
			if sums == nil {
				sums = map[string]int64{}
			}
			sums[name] += score
		}
	}
	return sums, nil
}

// search looks for nodes that suit, and accounts for those that do not.
func (c *nodeCache) search(a *attempt) ([]*nodeInfo, *account) {
	why := &account{}
	if a.invalid != nil {
		return nil, why
	}
	total := len(c.list)
	want := enough(total, a.profile.percentage)
	feasible := make([]*nodeInfo, 0, want)
	if n := c.nodes[c.nominated[a.pod.pod.UID]]; n != nil && n.node != nil && a.fitsWithNominated(n, nil) == nil {
		return append(feasible, n), why // what was kept free for it
	}
	start, looked := c.next, 0
	for ; looked < total && len(feasible) < want; looked++ {
		n := c.list[(start+looked)%total]
		no := a.fits(n)
		if no == nil && len(n.nominated) > 0 {
			no = a.fitsWithNominated(n, nil)
		}
		if no == nil {
			feasible = append(feasible, n)
			continue
		}
		why.add(no)
		if !no.unresolvable && len(feasible) == 0 {
			why.helpable = append(why.helpable, n)
		}
	}
	// The next pod begins where this one stopped, so that all nodes get a turn.
	if total > 0 {
		c.next = (start + looked) % total
	}
	return feasible, why
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
