package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/utils/ptr"
)

// podSpread is a topology spread constraint, ready to use.
type podSpread struct {
	key         string
	when        corev1.UnsatisfiableConstraintAction
	maxSkew     int
	minDomains  int
	selector    labels.Selector // nil: pods of the same kind
	name        string          // of the counter
	honorAff    bool            // only nodes that the pod's node affinity matches count
	honorTaints bool            // only nodes whose taints the pod tolerates count
	self        int             // 1 if the pod itself matches
}

// newPodSpread reads a constraint of a pod.
func newPodSpread(pod *corev1.Pod, c *corev1.TopologySpreadConstraint) (podSpread, error) {
	s := spreadOf(c)
	selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
	if err != nil {
		return s, err
	}
	for _, key := range c.MatchLabelKeys {
		if v, ok := pod.Labels[key]; ok {
			selector = withRequirement(selector, key, "in", v)
		}
	}
	s.selector, s.self = selector, 0
	s.name = "s" + pod.Namespace + "/" + selector.String()
	if _, selectable := selector.Requirements(); !selectable {
		s.name = "s-nothing"
	}
	if selector.Matches(labels.Set(pod.Labels)) {
		s.self = 1
	}
	return s, nil
}

// spreadOf is a constraint that counts pods of the same kind.
func spreadOf(c *corev1.TopologySpreadConstraint) podSpread {
	return podSpread{
		key: c.TopologyKey, when: c.WhenUnsatisfiable, maxSkew: int(c.MaxSkew), minDomains: int(ptr.Deref(c.MinDomains, 1)), self: 1,
		honorAff:    ptr.Deref(c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
		honorTaints: ptr.Deref(c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
	}
}

// spreadState is a constraint with the pods counted in each domain.
type spreadState struct {
	*podSpread
	topo    *topoKey
	pods    *counter
	counts  []int32 // by value
	present []bool  // by value: nodes that take part have it; nil: any node
	takes   []bool  // by slot: the node takes part; nil: all that have the key
	least   int
}

// spreads are the pod's constraints of one kind, or the profile's if it has none.
func (a *attempt) spreads(when corev1.UnsatisfiableConstraintAction) (out []spreadState, system bool) {
	p, c := a.pod, a.cache
	if len(p.pod.Spec.TopologySpreadConstraints) > 0 {
		for i := range p.spread {
			if s := &p.spread[i]; s.when == when {
				namespace := p.pod.Namespace
				out = append(out, spreadState{podSpread: s, topo: c.topoKey(s.key), pods: c.counterFor(s.name, namespace, func(o *podInfo) bool {
					return o.pod.DeletionTimestamp == nil && s.selector.Matches(labels.Set(o.pod.Labels))
				})})
			}
		}
		return out, false
	}
	defaults := a.profile.spread.listed
	if a.profile.spread.system {
		defaults = systemSpread
	}
	var kind *counter
	for i := range defaults {
		if defaults[i].WhenUnsatisfiable != when {
			continue
		}
		if kind == nil {
			if kind = c.counterOfKind(p); kind == nil {
				return nil, false
			}
		}
		s := spreadOf(&defaults[i])
		out = append(out, spreadState{podSpread: &s, topo: c.topoKey(s.key), pods: kind})
	}
	return out, a.profile.spread.system
}

// counterOfKind counts the pods of the same controller or, without one, those that
// the same services select. Nil: there is neither.
func (c *nodeCache) counterOfKind(p *podInfo) *counter {
	if p.owner != "" {
		owner := p.owner
		return c.counterFor("o"+p.pod.Namespace+"/"+string(owner), p.pod.Namespace, func(o *podInfo) bool { return o.owner == owner && o.pod.DeletionTimestamp == nil })
	}
	services := c.services(p.pod)
	if len(services) == 0 {
		return nil
	}
	selector := services[0]
	for _, s := range services[1:] {
		if reqs, ok := s.Requirements(); ok {
			selector = selector.Add(reqs...)
		}
	}
	return c.counterFor("s"+p.pod.Namespace+"/"+selector.String(), p.pod.Namespace, func(o *podInfo) bool {
		return o.pod.DeletionTimestamp == nil && selector.Matches(labels.Set(o.pod.Labels))
	})
}

// count fills in the counts by domain. They are the counter's own, unless only some
// nodes take part.
func (a *attempt) count(all []spreadState, needAllKeys bool) {
	everywhere := true
	if needAllKeys && len(all) > 1 {
		for i := range all {
			everywhere = everywhere && all[i].topo.labelled == len(a.cache.list)
		}
	}
	for i := range all {
		s := &all[i]
		if everywhere && (!s.honorAff || !a.pod.hasAffinity) && !s.honorTaints {
			s.counts = s.pods.by(s.topo)
			continue
		}
		s.counts, s.present, s.takes = make([]int32, len(s.topo.nodes)), make([]bool, len(s.topo.nodes)), make([]bool, len(a.cache.slots))
		for _, n := range a.cache.list {
			value := s.topo.of[n.slot]
			if value == noValue || needAllKeys && !hasKeys(n, all) || !a.takesPart(s, n) {
				continue
			}
			s.takes[n.slot], s.present[value] = true, true
			s.counts[value] += s.pods.on(n.slot)
		}
	}
}

func hasKeys(n *nodeInfo, all []spreadState) bool {
	for i := range all {
		if all[i].topo.of[n.slot] == noValue {
			return false
		}
	}
	return true
}

func (a *attempt) takesPart(s *spreadState, n *nodeInfo) bool {
	if s.honorAff && a.pod.hasAffinity {
		if ok, err := a.pod.affinity.Match(n.node); !ok || err != nil {
			return false
		}
	}
	if s.honorTaints {
		if _, bad := schedulinghelper.FindMatchingUntoleratedTaint(quiet, n.node.Spec.Taints, a.pod.pod.Spec.Tolerations, blocksScheduling, true); bad {
			return false
		}
	}
	return true
}

// requiredSpread counts the domains of the pod's DoNotSchedule constraints.
func requiredSpread(a *attempt) []spreadState {
	all, _ := a.spreads(corev1.DoNotSchedule)
	if len(all) == 0 {
		return nil
	}
	a.count(all, true)
	for i := range all {
		all[i].level()
	}
	return all
}

// level works out what the emptiest domain has.
func (s *spreadState) level() {
	domains, least := 0, int32(math.MaxInt32)
	for value, count := range s.counts {
		if s.present == nil && s.topo.nodes[value] > 0 || s.present != nil && s.present[value] {
			domains++
			least = min(least, count)
		}
	}
	s.least = int(least)
	if domains < s.minDomains {
		s.least = 0
	}
}

// shifted takes in that a pod has come to a node or left it during the attempt.
func (a *attempt) shifted(n *nodeInfo, p *podInfo, by int32) {
	for i := range a.spread {
		s := &a.spread[i]
		if s.takes != nil && s.takes[n.slot] && p.pod.Namespace == a.pod.pod.Namespace && s.pods.counts(p) {
			s.counts[s.topo.of[n.slot]] += by
		}
		s.level()
	}
	if a.social != nil && a.social.itself {
		a.social.first = !a.social.anybody()
	}
}

func (a *attempt) fitsSpread(n *nodeInfo) *rejection {
	for i := range a.spread {
		s := &a.spread[i]
		value := s.topo.of[n.slot]
		if value == noValue {
			return noSpreadLabel
		}
		if int(s.counts[value])+s.self-s.least > s.maxSkew {
			return noSpread
		}
	}
	return nil
}

// softSpread scores nodes by how few pods of the same kind are in their
// domains: by the pod's ScheduleAnyway constraints or, if it has no constraints
// at all, by its controller or the services that select it, over nodes and
// zones. It returns nil if there is nothing to go by. Few is better.
func softSpread(_ *nodeCache, a *attempt, feasible []*nodeInfo) []int64 {
	soft, system := a.spreads(corev1.ScheduleAnyway)
	if len(soft) == 0 {
		return nil
	}
	a.count(soft, !system)
	out := make([]bool, len(feasible))
	if !system {
		for i, n := range feasible {
			out[i] = !hasKeys(n, soft)
		}
	}
	weights := make([]float64, len(soft))
	for i := range soft {
		weights[i] = math.Log(float64(soft[i].size(feasible, out) + 2))
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		if out[i] {
			scores[i] = leftOut
			continue
		}
		var sum float64
		for j := range soft {
			s := &soft[j]
			value := s.topo.of[n.slot]
			if value == noValue {
				continue
			}
			pods := s.counts[value]
			if s.key == corev1.LabelHostname {
				pods = s.pods.on(n.slot)
			}
			sum += float64(pods)*weights[j] + float64(s.maxSkew-1)
		}
		scores[i] = int64(math.Round(sum))
	}
	return scores
}

// size is how many domains there are among the nodes that suit. The weight of a
// key grows with it, else zones would always outvote nodes.
func (s *spreadState) size(feasible []*nodeInfo, out []bool) int {
	seen, domains := make([]bool, len(s.topo.nodes)+1), 0
	for i, n := range feasible {
		if out[i] {
			continue
		}
		if s.key == corev1.LabelHostname { // a domain is a node
			domains++
			continue
		}
		if value := s.topo.of[n.slot] + 1; !seen[value] {
			seen[value] = true
			domains++
		}
	}
	return domains
}
