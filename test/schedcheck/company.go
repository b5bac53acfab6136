package schedcheck

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// means says whether a term of the owner's (anti-)affinity means another pod.
func (s *State) means(owner *corev1.Pod, t corev1.PodAffinityTerm, other *corev1.Pod) bool {
	inNamespace := slices.Contains(t.Namespaces, other.Namespace) ||
		t.NamespaceSelector != nil && selects(t.NamespaceSelector, s.Namespaces[other.Namespace]) ||
		len(t.Namespaces) == 0 && t.NamespaceSelector == nil && other.Namespace == owner.Namespace
	selector := withKeys(withKeys(t.LabelSelector, owner, t.MatchLabelKeys, metav1.LabelSelectorOpIn), owner, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	return inNamespace && selects(selector, other.Labels)
}

func affinityTerms(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func antiTerms(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// together says whether two nodes are one domain of a topology.
func together(a, b *corev1.Node, key string) bool {
	x, ok := a.Labels[key]
	y, also := b.Labels[key]
	return ok && also && x == y
}

// badCompany says which rule of affinity between pods the node breaks; empty: none.
func (s *State) badCompany(pod *corev1.Pod, node *corev1.Node) string {
	if why := s.unwanted(pod, node); why != "" {
		return why
	}
	return s.alone(pod, node)
}

// neighbours goes through the other pods that are on known nodes.
func (s *State) neighbours(pod *corev1.Pod, each func(other *corev1.Pod, at *corev1.Node)) {
	for uid, other := range s.Pods {
		if at := s.Nodes[other.Spec.NodeName]; uid != pod.UID && counts(other) && at != nil {
			each(other, at)
		}
	}
}

// unwanted says who must not be together with the pod on the node; empty: nobody.
func (s *State) unwanted(pod *corev1.Pod, node *corev1.Node) (why string) {
	s.neighbours(pod, func(other *corev1.Pod, at *corev1.Node) {
		for _, t := range antiTerms(pod) {
			if s.means(pod, t, other) && together(at, node, t.TopologyKey) {
				why = fmt.Sprintf("it must not be in one %s with %s", t.TopologyKey, other.Name)
			}
		}
		for _, t := range antiTerms(other) {
			if s.means(other, t, pod) && together(at, node, t.TopologyKey) {
				why = fmt.Sprintf("%s must not be in one %s with it", other.Name, t.TopologyKey)
			}
		}
	})
	return why
}

// alone says which domain has nobody that the pod must be near; empty: none.
func (s *State) alone(pod *corev1.Pod, node *corev1.Node) string {
	terms := affinityTerms(pod)
	meansAll := func(other *corev1.Pod) bool {
		for _, t := range terms {
			if !s.means(pod, t, other) {
				return false
			}
		}
		return true
	}
	anywhere, met := false, make([]bool, len(terms))
	s.neighbours(pod, func(other *corev1.Pod, at *corev1.Node) {
		if !meansAll(other) {
			return
		}
		for i, t := range terms {
			if _, ok := at.Labels[t.TopologyKey]; ok {
				anywhere = true
				met[i] = met[i] || together(at, node, t.TopologyKey)
			}
		}
	})
	// The first of a group that wants to be together may go anywhere with those labels.
	first := !anywhere && meansAll(pod)
	for i, t := range terms {
		if _, ok := node.Labels[t.TopologyKey]; !ok || !met[i] && !first {
			return fmt.Sprintf("nothing that it must be near is in this %s", t.TopologyKey)
		}
	}
	return ""
}

// skewed says which required spread constraint the node breaks; empty: none.
func (s *State) skewed(pod *corev1.Pod, node *corev1.Node) string {
	return s.skewedAtBest(s, pod, node)
}

// skewedAtBest is skewed where some pods may count or not: s has none of them, with has all.
func (s *State) skewedAtBest(with *State, pod *corev1.Pod, node *corev1.Node) string {
	var hard []corev1.TopologySpreadConstraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		}
	}
	for _, c := range hard {
		value, ok := node.Labels[c.TopologyKey]
		if !ok {
			return "the node has no label " + c.TopologyKey
		}
		domains := s.domains(pod, c, hard)
		least, first := 0, true
		for _, n := range with.domains(pod, c, hard) {
			if first || n < least {
				least, first = n, false
			}
		}
		if c.MinDomains != nil && len(domains) < int(*c.MinDomains) {
			least = 0
		}
		n := domains[value]
		if selects(withKeys(c.LabelSelector, pod, c.MatchLabelKeys, metav1.LabelSelectorOpIn), pod.Labels) {
			n++
		}
		if n-least > int(c.MaxSkew) {
			return fmt.Sprintf("%s=%s would have %d, the least is %d, the skew at most %d", c.TopologyKey, value, n, least, c.MaxSkew)
		}
	}
	return ""
}

// domains counts the pods of each domain of a constraint. A node takes part if it has the
// labels of all constraints and the pod's policies do not leave it out.
func (s *State) domains(pod *corev1.Pod, c corev1.TopologySpreadConstraint, hard []corev1.TopologySpreadConstraint) map[string]int {
	selector := withKeys(c.LabelSelector, pod, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	domains := map[string]int{}
	for _, node := range s.Nodes {
		takesPart := true
		for _, other := range hard {
			_, ok := node.Labels[other.TopologyKey]
			takesPart = takesPart && ok
		}
		if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
			takesPart = takesPart && wantsNode(pod, node)
		}
		if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
			takesPart = takesPart && toleratesAll(pod, node)
		}
		if !takesPart {
			continue
		}
		value := node.Labels[c.TopologyKey]
		domains[value] += 0
		for _, other := range s.on(pod.UID, node.Name) {
			if other.Namespace == pod.Namespace && other.DeletionTimestamp == nil && selects(selector, other.Labels) {
				domains[value]++
			}
		}
	}
	return domains
}
