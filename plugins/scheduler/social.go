package scheduler

// topology is a domain: a label of a node and its value.
type topology struct{ key, value string }

// socialState counts, for one pod, the pods that its required terms of affinity
// mean, and those whose own terms mean it, by domain.
type socialState struct {
	existingAnti map[topology]int // pods that do not want this one near
	affinity     map[topology]int // pods that this one needs near
	anti         map[topology]int // pods that this one does not want near
	first        bool             // it matches its own terms, and nobody else does
}

func newSocialState(c *nodeCache, a *attempt) *socialState {
	s := &socialState{existingAnti: map[topology]int{}, affinity: map[topology]int{}, anti: map[topology]int{}}
	p := a.pod
	for _, n := range c.list {
		for _, other := range n.anti {
			for i := range other.requiredAnti {
				term := &other.requiredAnti[i]
				if value, ok := n.node.Labels[term.key]; ok && term.matches(p.pod, a.cache.namespaces) {
					s.existingAnti[topology{term.key, value}]++
				}
			}
		}
		if len(p.required)+len(p.requiredAnti) == 0 {
			continue
		}
		for _, other := range n.pods {
			if len(p.required) > 0 && matchesAll(p.required, other, a.cache.namespaces) {
				for i := range p.required {
					if value, ok := n.node.Labels[p.required[i].key]; ok {
						s.affinity[topology{p.required[i].key, value}]++
					}
				}
			}
			for i := range p.requiredAnti {
				term := &p.requiredAnti[i]
				if value, ok := n.node.Labels[term.key]; ok && term.matches(other.pod, a.cache.namespaces) {
					s.anti[topology{term.key, value}]++
				}
			}
		}
	}
	s.first = len(s.affinity) == 0 && len(p.required) > 0 && matchesAll(p.required, p, a.cache.namespaces)
	return s
}

func matchesAll(terms []podTerm, p *podInfo, namespaces namespaceLabels) bool {
	for i := range terms {
		if !terms[i].matches(p.pod, namespaces) {
			return false
		}
	}
	return true
}

func (a *attempt) fitsSocially(n *nodeInfo) *rejection {
	s := a.social
	if s == nil {
		return nil
	}
	for i := range a.pod.required {
		key := a.pod.required[i].key
		value, ok := n.node.Labels[key]
		// The first of a group that wants to be together may go anywhere that
		// has the label.
		if !ok || (s.affinity[topology{key, value}] == 0 && !s.first) {
			return noAffinity
		}
	}
	for i := range a.pod.requiredAnti {
		key := a.pod.requiredAnti[i].key
		if value, ok := n.node.Labels[key]; ok && s.anti[topology{key, value}] > 0 {
			return noAntiAffinity
		}
	}
	for t := range s.existingAnti {
		if value, ok := n.node.Labels[t.key]; ok && value == t.value {
			return noExistingAnti
		}
	}
	return nil
}

// socialScores sums the weights of preferred terms, the pod's own and those of
// pods that are there, by node. It returns nil if there are none.
func socialScores(c *nodeCache, a *attempt, feasible []*nodeInfo) []int64 {
	p := a.pod
	own := len(p.wanted)+len(p.unwanted) > 0
	if !own && c.social == 0 {
		return nil
	}
	sums := map[topology]int64{}
	add := func(terms []podTerm, n *nodeInfo, subject *podInfo, sign int64, fixed int64) {
		for i := range terms {
			value, ok := n.node.Labels[terms[i].key]
			if ok && terms[i].matches(subject.pod, a.cache.namespaces) {
				w := int64(terms[i].weight)
				if fixed != 0 {
					w = fixed
				}
				sums[topology{terms[i].key, value}] += sign * w
			}
		}
	}
	for _, n := range c.list {
		if own {
			for _, other := range n.pods {
				add(p.wanted, n, other, 1, 0)
				add(p.unwanted, n, other, -1, 0)
			}
		}
		for _, other := range n.social {
			if hard := a.profile.social.hardWeight; hard > 0 {
				// A required affinity of theirs is a wish the other way.
				add(other.required, n, p, 1, hard)
			}
			if a.profile.social.ignorePreferredOfThere && !own {
				continue
			}
			add(other.wanted, n, p, 1, 0)
			add(other.unwanted, n, p, -1, 0)
		}
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		for t, w := range sums {
			if n.node.Labels[t.key] == t.value {
				scores[i] += w
			}
		}
	}
	return scores
}
