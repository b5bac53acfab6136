package scheduler

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// The slow and obvious way to spread and affinity: it looks at every pod on every
// node, each time.

type place struct{ key, value string }

func placeOf(n *nodeInfo, key string) (place, bool) {
	value, ok := n.node.Labels[key]
	return place{key, value}, ok
}

func slowPods(n *nodeInfo, match func(*podInfo) bool) int {
	count := 0
	for _, p := range n.pods {
		if match(p) {
			count++
		}
	}
	return count
}

// slowSpread counts pods by domain for each constraint.
func slowSpread(a *attempt, when corev1.UnsatisfiableConstraintAction) (states []podSpread, counts []map[string]int, match func(i int) func(*podInfo) bool) {
	p := a.pod
	system := len(p.pod.Spec.TopologySpreadConstraints) == 0
	match = func(i int) func(*podInfo) bool {
		return func(o *podInfo) bool {
			if o.pod.Namespace != p.pod.Namespace || o.pod.DeletionTimestamp != nil {
				return false
			}
			if system {
				return o.owner == p.owner
			}
			return states[i].selector.Matches(labels.Set(o.pod.Labels))
		}
	}
	if system {
		if p.owner == "" || when == corev1.DoNotSchedule {
			return nil, nil, match
		}
		for i := range systemSpread {
			states = append(states, spreadOf(&systemSpread[i]))
		}
	}
	for _, s := range p.spread {
		if s.when == when {
			states = append(states, s)
		}
	}
	for i, s := range states {
		domains := map[string]int{}
		for _, n := range a.cache.list {
			if (!system && !slowKeys(n, states)) || !a.takesPart(&spreadState{podSpread: &s}, n) {
				continue
			}
			if at, ok := placeOf(n, s.key); ok {
				domains[at.value] += slowPods(n, match(i))
			}
		}
		counts = append(counts, domains)
	}
	return states, counts, match
}

func slowKeys(n *nodeInfo, states []podSpread) bool {
	for _, s := range states {
		if _, ok := placeOf(n, s.key); !ok {
			return false
		}
	}
	return true
}

func slowFitsSpread(a *attempt, n *nodeInfo) *rejection {
	states, counts, _ := slowSpread(a, corev1.DoNotSchedule)
	for i, s := range states {
		at, ok := placeOf(n, s.key)
		if !ok {
			return noSpreadLabel
		}
		least := math.MaxInt
		for _, count := range counts[i] {
			least = min(least, count)
		}
		if len(counts[i]) < s.minDomains {
			least = 0
		}
		if counts[i][at.value]+s.self-least > s.maxSkew {
			return noSpread
		}
	}
	return nil
}

func slowSoft(a *attempt, feasible []*nodeInfo) []int64 {
	states, counts, match := slowSpread(a, corev1.ScheduleAnyway)
	if len(states) == 0 {
		return nil
	}
	system := len(a.pod.pod.Spec.TopologySpreadConstraints) == 0
	out := func(n *nodeInfo) bool { return !system && !slowKeys(n, states) }
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		var sum float64
		for j, s := range states {
			values, taking := map[string]bool{}, 0
			for _, f := range feasible {
				if !out(f) {
					values[f.node.Labels[s.key]] = true
					taking++
				}
			}
			at, ok := placeOf(n, s.key)
			if !ok {
				continue
			}
			pods, size := counts[j][at.value], len(values)
			if s.key == corev1.LabelHostname {
				pods, size = slowPods(n, match(j)), taking
			}
			sum += float64(pods)*math.Log(float64(size+2)) + float64(s.maxSkew-1)
		}
		scores[i] = int64(math.Round(sum))
		if out(n) {
			scores[i] = leftOut
		}
	}
	return scores
}

func slowFitsSocially(a *attempt, n *nodeInfo) *rejection {
	p, c := a.pod, a.cache
	theirs, needed, unwelcome := map[place]int{}, map[place]int{}, map[place]int{}
	for _, m := range c.list {
		for _, o := range m.pods {
			for i := range o.requiredAnti {
				if at, ok := placeOf(m, o.requiredAnti[i].key); ok && o.requiredAnti[i].matches(p.pod, c.namespaces) {
					theirs[at]++
				}
			}
			for i := range p.required {
				if at, ok := placeOf(m, p.required[i].key); ok && matchesAll(p.required, o, c.namespaces) {
					needed[at]++
				}
			}
			for i := range p.requiredAnti {
				if at, ok := placeOf(m, p.requiredAnti[i].key); ok && p.requiredAnti[i].matches(o.pod, c.namespaces) {
					unwelcome[at]++
				}
			}
		}
	}
	first := len(needed) == 0 && matchesAll(p.required, p, c.namespaces)
	for i := range p.required {
		if at, ok := placeOf(n, p.required[i].key); !ok || needed[at] == 0 && !first {
			return noAffinity
		}
	}
	for i := range p.requiredAnti {
		if at, ok := placeOf(n, p.requiredAnti[i].key); ok && unwelcome[at] > 0 {
			return noAntiAffinity
		}
	}
	for key, value := range n.node.Labels {
		if theirs[place{key, value}] > 0 {
			return noExistingAnti
		}
	}
	return nil
}

func slowSocial(a *attempt, feasible []*nodeInfo) []int64 {
	p, c := a.pod, a.cache
	sums := map[place]int64{}
	add := func(terms []podTerm, n *nodeInfo, subject *podInfo, weight func(*podTerm) int64) {
		for i := range terms {
			if at, ok := placeOf(n, terms[i].key); ok && terms[i].matches(subject.pod, c.namespaces) {
				sums[at] += weight(&terms[i])
			}
		}
	}
	more := func(t *podTerm) int64 { return int64(t.weight) }
	less := func(t *podTerm) int64 { return -int64(t.weight) }
	for _, n := range c.list {
		for _, o := range n.pods {
			add(p.wanted, n, o, more)
			add(p.unwanted, n, o, less)
			add(o.wanted, n, p, more)
			add(o.unwanted, n, p, less)
			add(o.required, n, p, func(*podTerm) int64 { return a.profile.social.hardWeight })
		}
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		for key, value := range n.node.Labels {
			scores[i] += sums[place{key, value}]
		}
	}
	return scores
}

// randomPod makes pods that have much to do with each other.
func randomPod(r *rand.Rand, i int) *corev1.Pod {
	apps := []string{"a", "b", "c"}
	keys := []string{corev1.LabelHostname, corev1.LabelTopologyZone, "rack"}
	pick := func(s []string) string { return s[r.IntN(len(s))] }
	p := newPod(fmt.Sprint("p", i), labelled("app", pick(apps)), requests(fmt.Sprint(100*(1+r.IntN(5)), "m"), fmt.Sprint(100*(1+r.IntN(5)), "Mi")))
	p.Namespace = pick([]string{"ns", "other"})
	if r.IntN(3) == 0 {
		owned(pick([]string{"rs1", "rs2"}))(p)
	}
	if r.IntN(4) == 0 {
		selecting("rack", pick([]string{"0", "1"}))(p)
	}
	for r.IntN(2) == 0 {
		when := []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[r.IntN(2)]
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(1 + r.IntN(3)), TopologyKey: pick(keys), WhenUnsatisfiable: when,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(apps)}},
		}
		if when == corev1.DoNotSchedule && r.IntN(3) == 0 {
			c.MinDomains = new(int32(1 + r.IntN(4)))
		}
		if r.IntN(3) == 0 {
			c.NodeTaintsPolicy = new(corev1.NodeInclusionPolicyHonor)
		}
		if r.IntN(3) == 0 {
			c.NodeAffinityPolicy = new(corev1.NodeInclusionPolicyIgnore)
		}
		if slices.ContainsFunc(p.Spec.TopologySpreadConstraints, func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == when
		}) {
			break
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	aff := &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	one := func() corev1.PodAffinityTerm {
		t := term(pick(apps), pick(keys))
		switch r.IntN(3) {
		case 0:
			t.Namespaces = []string{"ns", "other"}
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": "other"}}
		}
		return t
	}
	for r.IntN(4) == 0 {
		aff.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(aff.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, one())
	}
	for r.IntN(6) == 0 {
		aff.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(aff.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, one())
	}
	for r.IntN(3) == 0 {
		aff.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(aff.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(100)), PodAffinityTerm: one()})
	}
	for r.IntN(3) == 0 {
		aff.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(aff.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(100)), PodAffinityTerm: one()})
	}
	if a := p.Spec.Affinity; a != nil {
		aff.NodeAffinity = a.NodeAffinity
	}
	p.Spec.Affinity = aff
	return p
}

func randomNode(r *rand.Rand, i int) *corev1.Node {
	n := newNode(fmt.Sprint("n", i), fmt.Sprint(1+r.IntN(4)), fmt.Sprint(1+r.IntN(4), "Gi"))
	if r.IntN(5) > 0 {
		n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("z", r.IntN(3))
	}
	if r.IntN(4) > 0 {
		n.Labels["rack"] = fmt.Sprint(r.IntN(3))
	}
	if r.IntN(6) == 0 {
		tainted("x", corev1.TaintEffectPreferNoSchedule)(n)
	}
	if r.IntN(8) == 0 {
		tainted("y", corev1.TaintEffectNoSchedule)(n)
	}
	return n
}

// compare holds the counted against the obvious, on every node.
func compare(t *testing.T, c *nodeCache, p *podInfo) {
	t.Helper()
	a := newAttempt(c, p, usual, nil)
	for _, n := range c.list {
		if got, want := a.fitsSpread(n), slowFitsSpread(a, n); got != want {
			t.Fatalf("pod %s on %s: spread says %v, want %v", p.pod.Name, n.name, got, want)
		}
		if got, want := a.fitsSocially(n), slowFitsSocially(a, n); got != want {
			t.Fatalf("pod %s on %s: affinity says %v, want %v", p.pod.Name, n.name, got, want)
		}
	}
	slow := *usual
	slow.fit.usual, slow.balancedUsual = false, false
	b := newAttempt(c, p, &slow, nil)
	b.plain = false
	for _, n := range c.list {
		if got, want := a.fitScore(n), b.fitScore(n); got != want {
			t.Fatalf("pod %s on %s: resources score %d, want %d", p.pod.Name, n.name, got, want)
		}
		if got, want := a.balanceScore(n), b.balanceScore(n); got != want {
			t.Fatalf("pod %s on %s: balance scores %d, want %d", p.pod.Name, n.name, got, want)
		}
		if got, want := a.fitsItself(n), b.fitsItself(n); (got == nil) != (want == nil) {
			t.Fatalf("pod %s on %s: the node itself: got %v, want %v", p.pod.Name, n.name, got, want)
		}
	}
	feasible := slices.DeleteFunc(slices.Clone(c.list), func(n *nodeInfo) bool { return a.fits(n) != nil })
	if got, want := softSpread(c, a, feasible), slowSoft(a, feasible); !slices.Equal(got, want) {
		t.Fatalf("pod %s: spread scores %v, want %v", p.pod.Name, got, want)
	}
	got, want := socialScores(c, a, feasible), slowSocial(a, feasible)
	if got == nil {
		got = make([]int64, len(feasible))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("pod %s: affinity scores %v, want %v", p.pod.Name, got, want)
	}
}

// TestCountsAreObvious makes random clusters, changes them at random, and holds
// every decision against the slow way to it.
func TestCountsAreObvious(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		c := newCache()
		c.namespaces = func(name string) labels.Set { return labels.Set{"name": name} }
		for i := range 4 + r.IntN(12) {
			c.setNode(randomNode(r, i))
		}
		var there []types.UID
		for i := range 120 {
			switch k := r.IntN(10); {
			case k == 0 && len(there) > 0:
				j := r.IntN(len(there))
				c.removePod(there[j])
				there = slices.Delete(there, j, j+1)
			case k == 1:
				c.setNode(randomNode(r, r.IntN(16)))
			case k == 2 && r.IntN(3) == 0:
				c.removeNode(fmt.Sprint("n", r.IntN(16)))
			case k == 3 && len(there) > 0:
				at := c.pods[there[r.IntN(len(there))]]
				leaving := at.info.pod.DeepCopy()
				leaving.Spec.NodeName = at.node
				leaving.DeletionTimestamp = new(metav1.Now())
				c.setPod(newPodInfo(leaving))
			default:
				p := newPodInfo(randomPod(r, i))
				compare(t, c, p)
				if d := c.decide(t.Context(), p, usual); d.node != "" {
					there = append(there, p.pod.UID)
				}
			}
		}
	}
}
