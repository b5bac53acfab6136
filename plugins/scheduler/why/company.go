package why

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	"github.com/go-logr/logr"
)

// selectorOf reads a selector, with the pod's own values of some labels required or barred.
// One that cannot be read matches nothing.
func selectorOf(s *metav1.LabelSelector, pod *corev1.Pod, same, other []string) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	for op, keys := range map[selection.Operator][]string{selection.In: same, selection.NotIn: other} {
		for _, k := range keys {
			v, ok := pod.Labels[k]
			if !ok {
				continue
			}
			if r, err := labels.NewRequirement(k, op, []string{v}); err == nil {
				sel = sel.Add(*r)
			}
		}
	}
	return sel
}

// means says whether a term of the owner's means another pod.
func (j *judge) means(owner *corev1.Pod, t *corev1.PodAffinityTerm, other *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, other.Namespace) || len(t.Namespaces) == 0 && t.NamespaceSelector == nil && owner.Namespace == other.Namespace
	if t.NamespaceSelector != nil {
		in = in || selectorOf(t.NamespaceSelector, owner, nil, nil).Matches(j.cluster.Namespaces[other.Namespace])
	}
	return in && selectorOf(t.LabelSelector, owner, t.MatchLabelKeys, t.MismatchLabelKeys).Matches(labels.Set(other.Labels))
}

func required(pod *corev1.Pod) (near, apart []corev1.PodAffinityTerm) {
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			apart = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, apart
}

func text(t *corev1.PodAffinityTerm) string {
	return fmt.Sprintf("%s by %s", metav1.FormatLabelSelector(t.LabelSelector), t.TopologyKey)
}

// company judges affinity between pods.
func (j *judge) company(node *corev1.Node, without removed) (out []Failure) {
	const filter = "InterPodAffinity"
	near, apart := required(j.pod)
	together := func(other *corev1.Node, key string) bool {
		a, ok := node.Labels[key]
		b, also := other.Labels[key]
		return ok && also && a == b
	}
	all := func(p *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !j.means(j.pod, &t, p) })
	}
	anywhere, met := false, make([]bool, len(near))
	for _, name := range slices.Sorted(maps.Keys(j.nodes)) {
		other := j.nodes[name]
		for _, p := range j.pods(name, without) {
			for i := range apart {
				if t := &apart[i]; together(other, t.TopologyKey) && j.means(j.pod, t, p) {
					out = append(out, Failure{filter, fmt.Sprintf("the pod must be apart from %s: pod %s/%s is there", text(t), p.Namespace, p.Name), "move pod " + p.Namespace + "/" + p.Name + ", or add a node elsewhere (" + t.TopologyKey + ")"})
				}
			}
			_, theirs := required(p)
			for i := range theirs {
				if t := &theirs[i]; together(other, t.TopologyKey) && j.means(p, t, j.pod) {
					out = append(out, Failure{filter, fmt.Sprintf("pod %s/%s must be apart from %s, which is this pod", p.Namespace, p.Name, text(t)), "move pod " + p.Namespace + "/" + p.Name + ", or add a node elsewhere (" + t.TopologyKey + ")"})
				}
			}
			if len(near) == 0 || !all(p) {
				continue
			}
			for i := range near {
				if _, ok := other.Labels[near[i].TopologyKey]; ok {
					anywhere = true
					met[i] = met[i] || together(other, near[i].TopologyKey)
				}
			}
		}
	}
	first := !anywhere && all(j.pod)
	for i := range near {
		t := &near[i]
		if _, ok := node.Labels[t.TopologyKey]; !ok {
			out = append(out, Failure{filter, "the node has no label " + t.TopologyKey + ", which the pod's affinity asks for", fmt.Sprintf("label node %s with %s", node.Name, t.TopologyKey)})
		} else if !met[i] && !first {
			out = append(out, Failure{filter, "no pod is there that the pod must be near: " + text(t), "start a pod with " + text(t) + ", or make room where there is one"})
		}
	}
	return out
}

// spread judges the constraints that must hold.
func (j *judge) spread(node *corev1.Node, without removed) (out []Failure) {
	const filter = "PodTopologySpread"
	var hard []corev1.TopologySpreadConstraint
	for _, c := range j.pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		}
	}
	for i := range hard {
		c := &hard[i]
		value, ok := node.Labels[c.TopologyKey]
		if !ok {
			out = append(out, Failure{filter, "the node has no label " + c.TopologyKey + ", by which the pod is spread", fmt.Sprintf("label node %s with %s", node.Name, c.TopologyKey)})
			continue
		}
		domains := j.domains(c, hard, without)
		emptiest, least := "", 0
		for _, d := range slices.Sorted(maps.Keys(domains)) {
			if emptiest == "" || domains[d] < least {
				emptiest, least = d, domains[d]
			}
		}
		few := c.MinDomains != nil && len(domains) < int(*c.MinDomains)
		if few {
			least = 0
		}
		n := domains[value]
		if selectorOf(c.LabelSelector, j.pod, c.MatchLabelKeys, nil).Matches(labels.Set(j.pod.Labels)) {
			n++
		}
		if n-least <= int(c.MaxSkew) {
			continue
		}
		help := fmt.Sprintf("make room in %s=%s, which has %d", c.TopologyKey, emptiest, least)
		if few {
			help = fmt.Sprintf("add nodes in other domains of %s: there are %d, minDomains is %d", c.TopologyKey, len(domains), *c.MinDomains)
		}
		out = append(out, Failure{filter, fmt.Sprintf("%s=%s would have %d such pods where the least is %d (maxSkew %d)", c.TopologyKey, value, n, least, c.MaxSkew), help})
	}
	return out
}

// domains counts the pods in each domain of a constraint.
func (j *judge) domains(c *corev1.TopologySpreadConstraint, hard []corev1.TopologySpreadConstraint, without removed) map[string]int {
	selector := selectorOf(c.LabelSelector, j.pod, c.MatchLabelKeys, nil)
	honors := func(p *corev1.NodeInclusionPolicy, otherwise corev1.NodeInclusionPolicy) bool {
		if p != nil {
			otherwise = *p
		}
		return otherwise == corev1.NodeInclusionPolicyHonor
	}
	out := map[string]int{}
	for name, node := range j.nodes {
		takesPart := true
		for i := range hard {
			_, ok := node.Labels[hard[i].TopologyKey]
			takesPart = takesPart && ok
		}
		if takesPart && honors(c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) {
			ok, err := j.affinity.Match(node)
			takesPart = ok && err == nil
		}
		if takesPart && honors(c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) {
			_, bad := schedulinghelper.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, j.pod.Spec.Tolerations,
				func(t *corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }, true)
			takesPart = !bad
		}
		if !takesPart {
			continue
		}
		out[node.Labels[c.TopologyKey]] += 0
		for _, p := range j.pods(name, without) {
			if p.Namespace == j.pod.Namespace && p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) {
				out[node.Labels[c.TopologyKey]]++
			}
		}
	}
	return out
}
