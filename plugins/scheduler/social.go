package scheduler

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/sets"
)

// socialState is what one pod's required terms of affinity, and those of others
// that mean it, forbid and demand.
type socialState struct {
	existingAnti []vicinity // pods that do not want this one near
	required     []vicinity // pods that match all of its terms, by the key of each
	anti         []vicinity // pods that this one does not want near
	itself       bool       // it matches its own terms
	first        bool       // and nobody else does
}

func newSocialState(c *nodeCache, a *attempt) *socialState {
	p := a.pod
	s := &socialState{}
	for _, g := range c.antiGroups {
		if g.total > 0 && g.term.matches(p.pod, c.namespaces) {
			s.existingAnti = append(s.existingAnti, g.near(g.key))
		}
	}
	for i := range p.requiredAnti {
		t := &p.requiredAnti[i]
		s.anti = append(s.anti, c.counterOfTerms(p.requiredAnti[i:i+1]).near(c.topoKey(t.key)))
	}
	if len(p.required) == 0 {
		return s
	}
	all := c.counterOfTerms(p.required)
	s.itself = matchesAll(p.required, p, c.namespaces)
	for i := range p.required {
		one := all.near(c.topoKey(p.required[i].key))
		s.required = append(s.required, one)
	}
	s.first = s.itself && !s.anybody()
	return s
}

// anybody tells whether a pod that matches all terms is in any domain.
func (s *socialState) anybody() bool {
	for _, one := range s.required {
		for _, n := range one.counts {
			if n > 0 {
				return true
			}
		}
	}
	return false
}

// counterOfTerms counts the pods that match all of the terms.
func (c *nodeCache) counterOfTerms(terms []podTerm) *counter {
	name, namespace := "t", ""
	for i := range terms {
		name += fmt.Sprintf("%q", terms[i].who)
	}
	bySelector := slices.ContainsFunc(terms, func(t podTerm) bool { return t.nsSelector != nil })
	if t := &terms[0]; !bySelector && len(t.namespaces) == 1 {
		namespace = sets.List(t.namespaces)[0]
	}
	return c.counterFor(name, namespace, func(p *podInfo) bool { return matchesAll(terms, p, c.namespaces) })
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
	for i := range s.required {
		// The first of a group that wants to be together may go anywhere that
		// has the label.
		if count, ok := s.required[i].here(n); !ok || count == 0 && !s.first {
			return noAffinity
		}
	}
	for i := range s.anti {
		if count, _ := s.anti[i].here(n); count > 0 {
			return noAntiAffinity
		}
	}
	for i := range s.existingAnti {
		if count, _ := s.existingAnti[i].here(n); count > 0 {
			return noExistingAnti
		}
	}
	return nil
}

// socialScores sums the weights of preferred terms, the pod's own and those of
// pods that are there, by node. It returns nil if there are none.
func socialScores(c *nodeCache, a *attempt, feasible []*nodeInfo) []int64 {
	p, args := a.pod, &a.profile.social
	own := len(p.wanted)+len(p.unwanted) > 0
	if !own && (len(c.scoreGroups) == 0 || args.ignorePreferredOfThere) {
		return nil
	}
	var all []vicinity
	add := func(one vicinity, weight int64) {
		if weight != 0 {
			one.weight = weight
			all = append(all, one)
		}
	}
	for i := range p.wanted {
		add(c.counterOfTerms(p.wanted[i:i+1]).near(c.topoKey(p.wanted[i].key)), int64(p.wanted[i].weight))
	}
	for i := range p.unwanted {
		add(c.counterOfTerms(p.unwanted[i:i+1]).near(c.topoKey(p.unwanted[i].key)), -int64(p.unwanted[i].weight))
	}
	for _, g := range c.scoreGroups {
		if g.total == 0 || !g.term.matches(p.pod, c.namespaces) {
			continue
		}
		weight := int64(g.term.weight)
		switch g.kind {
		case groupUnwanted:
			weight = -weight
		case groupRequired:
			// A required affinity of theirs is a wish the other way.
			weight = args.hardWeight
		}
		add(g.near(g.key), weight)
	}
	if len(all) == 0 {
		return nil
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		for j := range all {
			count, _ := all[j].here(n)
			scores[i] += all[j].weight * int64(count)
		}
	}
	return scores
}
