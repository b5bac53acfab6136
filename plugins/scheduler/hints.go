package scheduler

import (
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Hints tell, of an event and a pod that waits, whether the event can help the pod:
// a burst of events must not try thousands of pods again that fit nowhere still.
// They may say yes in vain, and never no to what helps. f are the filters that have
// turned the pod down and that the event concerns.
type hint func(p *podInfo, f filterSet) bool

const (
	roomFilters = filterNodeResourcesFit | filterNodePorts
	nearFilters = filterPodTopologySpread | filterInterPodAffinity
)

// wake tries those again that the hint speaks for. The hint looks at the cache as it
// is now.
func (s *Server) wake(helps filterSet, h func(c *nodeCache) hint) {
	if !s.queue.concerns(helps) {
		return
	}
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	s.queue.eventBy(helps, h(s.cache))
}

// afterLeaving: a pod has left a node, or asks for less there.
func (s *Server) afterLeaving(gone *podInfo, node string) func(c *nodeCache) hint {
	return func(c *nodeCache) hint {
		n := c.nodes[node]
		return func(p *podInfo, f filterSet) bool {
			if f&^(roomFilters|nearFilters) != 0 {
				return true
			}
			if f&roomFilters != 0 && s.hasRoom(c, p, n) {
				return true
			}
			if f&filterPodTopologySpread != 0 && spreadsAmong(p, gone) {
				return true
			}
			return f&filterInterPodAffinity != 0 && (anyMatches(p.requiredAnti, gone, c.namespaces) || anyMatches(gone.requiredAnti, p, c.namespaces))
		}
	}
}

// afterArrival: a pod has come to a node.
func afterArrival(here *podInfo) func(c *nodeCache) hint {
	return func(c *nodeCache) hint {
		return func(p *podInfo, f filterSet) bool {
			return f&^nearFilters != 0 || f&filterPodTopologySpread != 0 && spreadsAmong(p, here) ||
				f&filterInterPodAffinity != 0 && anyMatches(p.required, here, c.namespaces)
		}
	}
}

// afterChange: a pod on a node has changed.
func (s *Server) afterChange(was, now *podInfo, node string) func(c *nodeCache) hint {
	return func(c *nodeCache) hint {
		left, came := s.afterLeaving(was, node)(c), afterArrival(now)(c)
		return func(p *podInfo, f filterSet) bool { return left(p, f) || f&nearFilters != 0 && came(p, f&nearFilters) }
	}
}

// afterNode: a node is new or has changed. A pod that it will not do for by itself,
// whatever is on it, is helped by that only where its domains count.
func (s *Server) afterNode(node string) func(c *nodeCache) hint {
	return func(c *nodeCache) hint {
		n := c.nodes[node]
		return func(p *podInfo, f filterSet) bool {
			pr := s.profiles[p.pod.Spec.SchedulerName]
			if n == nil || n.node == nil || pr == nil || f == allFilters {
				return true
			}
			if f&filterPodTopologySpread != 0 {
				return true
			}
			a := &attempt{cache: c, pod: p, profile: pr}
			return a.fitsItself(n) == nil && s.hasRoom(c, p, n)
		}
	}
}

// hasRoom tells whether the pod has room on a node, or might make itself room there.
func (s *Server) hasRoom(c *nodeCache, p *podInfo, n *nodeInfo) bool {
	pr := s.profiles[p.pod.Spec.SchedulerName]
	if n == nil || n.node == nil || pr == nil {
		return pr == nil
	}
	a := &attempt{cache: c, pod: p, profile: pr}
	if a.fitsResources(n) == nil && !portsConflict(n, p.ports) {
		return true
	}
	for _, o := range n.pods {
		if o.priority < p.priority {
			return true
		}
	}
	return false
}

// spreadsAmong tells whether a pod counts for the other's constraints.
func spreadsAmong(p, o *podInfo) bool {
	if len(p.spread) == 0 {
		return true // the profile's constraints, which count by kind
	}
	return p.pod.Namespace == o.pod.Namespace && slices.ContainsFunc(p.spread, func(s podSpread) bool {
		return s.selector.Matches(labels.Set(o.pod.Labels))
	})
}

func anyMatches(terms []podTerm, p *podInfo, namespaces namespaceLabels) bool {
	return slices.ContainsFunc(terms, func(t podTerm) bool { return t.matches(p.pod, namespaces) })
}
