package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/utils/ptr"
)

func operatorOf(op string) selection.Operator { return selection.Operator(op) }

// spreadConstraint is a topology spread constraint with the pods counted in
// each domain.
type spreadConstraint struct {
	key         string
	maxSkew     int
	minDomains  int
	selector    labels.Selector
	honorAff    bool // only nodes that the pod's node affinity matches count
	honorTaints bool // only nodes whose taints the pod tolerates count
	self        int  // 1 if the pod itself matches
	domains     map[string]int
	least       int
	size        int // how many domains weigh
}

// constraintsOf reads the pod's constraints of one kind.
func constraintsOf(a *attempt, when corev1.UnsatisfiableConstraintAction) []*spreadConstraint {
	pod := a.pod.pod
	var out []*spreadConstraint
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != when {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			a.invalid = rejectForGood(err.Error())
			a.invalid.filter = allFilters
			continue
		}
		for _, key := range c.MatchLabelKeys {
			if v, ok := pod.Labels[key]; ok {
				selector = withRequirement(selector, key, "in", v)
			}
		}
		s := &spreadConstraint{
			key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: int(ptr.Deref(c.MinDomains, 1)), selector: selector,
			honorAff:    ptr.Deref(c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
			honorTaints: ptr.Deref(c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
			domains:     map[string]int{},
		}
		if selector.Matches(labels.Set(pod.Labels)) {
			s.self = 1
		}
		out = append(out, s)
	}
	return out
}

// requiredSpread counts the domains of the pod's DoNotSchedule constraints.
func requiredSpread(c *nodeCache, a *attempt) []*spreadConstraint {
	if len(a.pod.pod.Spec.TopologySpreadConstraints) == 0 {
		return nil
	}
	all := constraintsOf(a, corev1.DoNotSchedule)
	if len(all) == 0 {
		return nil
	}
	for _, n := range c.list {
		if !hasKeys(n, all) {
			continue
		}
		for _, s := range all {
			if s.counts(a.pod, n) {
				s.domains[n.node.Labels[s.key]] += matching(n, a.pod.pod.Namespace, s.selector)
			}
		}
	}
	for _, s := range all {
		s.least = math.MaxInt
		for _, count := range s.domains {
			s.least = min(s.least, count)
		}
		if len(s.domains) < s.minDomains {
			s.least = 0
		}
	}
	return all
}

func hasKeys(n *nodeInfo, all []*spreadConstraint) bool {
	for _, s := range all {
		if _, ok := n.node.Labels[s.key]; !ok {
			return false
		}
	}
	return true
}

func (s *spreadConstraint) counts(p *podInfo, n *nodeInfo) bool {
	if s.honorAff {
		if ok, err := p.affinity.Match(n.node); !ok || err != nil {
			return false
		}
	}
	if s.honorTaints {
		if _, bad := schedulinghelper.FindMatchingUntoleratedTaint(quiet, n.node.Spec.Taints, p.pod.Spec.Tolerations, blocksScheduling, true); bad {
			return false
		}
	}
	return true
}

// matching counts a node's pods of a namespace that a selector matches; those
// on their way out do not count.
func matching(n *nodeInfo, namespace string, selector labels.Selector) int {
	count := 0
	for _, p := range n.pods {
		if p.pod.Namespace == namespace && p.pod.DeletionTimestamp == nil && selector.Matches(labels.Set(p.pod.Labels)) {
			count++
		}
	}
	return count
}

func (a *attempt) fitsSpread(n *nodeInfo) *rejection {
	for _, s := range a.spread {
		value, ok := n.node.Labels[s.key]
		if !ok {
			return noSpreadLabel
		}
		if s.domains[value]+s.self-s.least > s.maxSkew {
			return noSpread
		}
	}
	return nil
}

// softSpread scores nodes by how few pods of the same kind are in their
// domains: by the pod's ScheduleAnyway constraints or, if it has no constraints
// at all, by its controller or the services that select it, over nodes and
// zones. It returns nil if there is nothing to go by. Few is better.
func softSpread(c *nodeCache, a *attempt, feasible []*nodeInfo) []int64 {
	var soft []*spreadConstraint
	count := func(n *nodeInfo, s *spreadConstraint) int { return matching(n, a.pod.pod.Namespace, s.selector) }
	system := false
	if len(a.pod.pod.Spec.TopologySpreadConstraints) > 0 {
		soft = constraintsOf(a, corev1.ScheduleAnyway)
	} else if a.profile.spread.system {
		system = true
		var services []labels.Selector
		if a.pod.owner == "" {
			services = c.services(a.pod.pod)
		}
		if a.pod.owner != "" || len(services) > 0 {
			soft = defaultSpread(services)
		}
		if a.pod.owner != "" {
			count = func(n *nodeInfo, _ *spreadConstraint) int { return n.owners[a.pod.owner] }
		}
	}
	if len(soft) == 0 {
		return nil
	}
	out := make([]bool, len(feasible))
	for _, s := range soft {
		for i, n := range feasible {
			if out[i] = out[i] || !system && !hasKeys(n, soft); !out[i] {
				s.domains[n.node.Labels[s.key]] = 0
			}
		}
		s.size = len(s.domains)
		if s.key == corev1.LabelHostname {
			s.size = len(feasible)
			continue // a domain is a node: counted when it is scored
		}
		for _, n := range c.list {
			value := n.node.Labels[s.key]
			if _, ok := s.domains[value]; ok && (system || hasKeys(n, soft)) && s.counts(a.pod, n) {
				s.domains[value] += count(n, s)
			}
		}
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		if out[i] {
			scores[i] = leftOut
			continue
		}
		var sum float64
		for _, s := range soft {
			value, ok := n.node.Labels[s.key]
			if !ok {
				continue
			}
			pods := s.domains[value]
			if s.key == corev1.LabelHostname {
				pods = count(n, s)
			}
			// The weight of a key grows with its domains, else zones would
			// always outvote nodes.
			sum += float64(pods)*math.Log(float64(s.size+2)) + float64(s.maxSkew-1)
		}
		scores[i] = int64(math.Round(sum))
	}
	return scores
}

func defaultSpread(services []labels.Selector) []*spreadConstraint {
	selector := labels.Nothing()
	if len(services) > 0 {
		selector = services[0]
		for _, s := range services[1:] {
			if reqs, ok := s.Requirements(); ok {
				selector = selector.Add(reqs...)
			}
		}
	}
	return []*spreadConstraint{
		{key: corev1.LabelHostname, maxSkew: 3, selector: selector, domains: map[string]int{}},
		{key: corev1.LabelTopologyZone, maxSkew: 5, selector: selector, domains: map[string]int{}},
	}
}
