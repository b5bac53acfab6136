package scheduler

import (
	"math"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
)

// Each score is from 0 to 100 before its weight.
const topScore = 100

// An image counts for something from minImage on, and no more beyond maxImage
// for each container.
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// best picks the node with the highest score; among equals, one by chance.
func best(c *nodeCache, a *attempt, feasible []*nodeInfo, extra map[string]int64) *nodeInfo {
	if len(feasible) == 1 {
		return feasible[0]
	}
	total := totals(c, a, feasible, extra)
	winner, ties := 0, 1
	for i := 1; i < len(total); i++ {
		switch {
		case total[i] > total[winner]:
			winner, ties = i, 1
		case total[i] == total[winner]:
			if ties++; rand.IntN(ties) == 0 {
				winner = i
			}
		}
	}
	return feasible[winner]
}

// totals are the weighted sums of all scores.
func totals(c *nodeCache, a *attempt, feasible []*nodeInfo, extra map[string]int64) []int64 {
	total := make([]int64, len(feasible))
	own := a.ownScores()
	for i, n := range feasible {
		total[i] = own(n) + extra[n.name]
	}
	mix := func(kind scoreKind, scores func() []int64, normalize func([]int64)) {
		weight := a.profile.weights[kind]
		if weight == 0 {
			return
		}
		if s := scores(); s != nil {
			normalize(s)
			for i := range total {
				total[i] += weight * s[i]
			}
		}
	}
	mix(scoreTaintToleration, func() []int64 { return untoleratedPreferences(a.pod, feasible) }, fewerIsBetter)
	mix(scoreNodeAffinity, func() []int64 { return nodePreferences(a, feasible) }, moreIsBetter)
	mix(scorePodTopologySpread, func() []int64 { return softSpread(c, a, feasible) }, spreadOut)
	mix(scoreInterPodAffinity, func() []int64 { return socialScores(c, a, feasible) }, stretch)
	for _, one := range a.parts {
		if s, ok := one.state.(partScorer); ok {
			s.score(feasible, total)
		}
	}
	return total
}

// ownScores are the scores of a node by itself, which need no other nodes.
func (a *attempt) ownScores() func(n *nodeInfo) int64 {
	w := &a.profile.weights
	fit, balance, images := w[scoreNodeResourcesFit], w[scoreNodeResourcesBalancedAllocation], w[scoreImageLocality]
	if a.asksNothing(a.profile.balanced) {
		balance = 0 // as upstream: else all such pods would go to one node
	}
	return func(n *nodeInfo) int64 {
		var sum int64
		if fit != 0 {
			sum = fit * a.fitScore(n)
		}
		if balance != 0 {
			sum += balance * a.balanceScore(n)
		}
		if images != 0 && len(n.images) > 0 {
			sum += images * imageLocality(n, a.pod, a.cache.images, len(a.cache.list))
		}
		return sum
	}
}

func (a *attempt) asksNothing(resources []resourceWeight) bool {
	for _, r := range resources {
		if a.pod.requests.of(r.name) > 0 {
			return false
		}
	}
	return true
}

// of is the amount of one resource.
func (a *amounts) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return a.milliCPU
	case corev1.ResourceMemory:
		return a.memory
	case corev1.ResourceEphemeralStorage:
		return a.ephemeral
	}
	return a.other[name]
}

// isDefaulted: pods that ask none of it are scored as if they did.
func isDefaulted(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory
}

// fitScore is NodeResourcesFit's score.
func (a *attempt) fitScore(n *nodeInfo) int64 {
	args := &a.profile.fit
	if args.usual && n.allocatable.milliCPU > 0 && n.allocatable.memory > 0 {
		cpu := max(0, n.allocatable.milliCPU-n.scored.milliCPU-a.pod.scored.milliCPU) * topScore / n.allocatable.milliCPU
		memory := max(0, n.allocatable.memory-n.scored.memory-a.pod.scored.memory) * topScore / n.allocatable.memory
		return (cpu + memory) / 2
	}
	var sum, weights int64
	for _, r := range args.resources {
		var capacity, used int64
		switch {
		case isDefaulted(r.name):
			capacity, used = n.allocatable.of(r.name), n.scored.of(r.name)+a.pod.scored.of(r.name)
		case a.pod.requests.of(r.name) > 0 || r.name == corev1.ResourceEphemeralStorage:
			capacity, used = n.allocatable.of(r.name), n.requested.of(r.name)+a.pod.requests.of(r.name)
		}
		if capacity == 0 {
			continue
		}
		var score int64
		switch args.scoring {
		case leastAllocatedScoring:
			score = max(0, capacity-used) * topScore / capacity
		case mostAllocatedScoring:
			score = min(used, capacity) * topScore / capacity
		case requestedToCapacityScoring:
			// As upstream: what scores nothing has no weight.
			if score = onShape(args.shape, min(used, capacity)*topScore/capacity); score == 0 {
				continue
			}
		}
		sum += score * r.weight
		weights += r.weight
	}
	if weights == 0 {
		return 0
	}
	if args.scoring == requestedToCapacityScoring {
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

// onShape is the score, up to 100, at a utilization: straight lines between points.
func onShape(shape []shapePoint, at int64) int64 {
	for i, p := range shape {
		if at > p.utilization {
			continue
		}
		if i == 0 {
			return p.score * 10
		}
		before := shape[i-1]
		return before.score*10 + (p.score-before.score)*10*(at-before.utilization)/(p.utilization-before.utilization)
	}
	if len(shape) == 0 {
		return 0
	}
	return shape[len(shape)-1].score * 10
}

// balanceScore prefers nodes that the pod leaves with resources used more alike
// than they are without it: 75 changes nothing, 50 is the worst, 100 the best.
func (a *attempt) balanceScore(n *nodeInfo) int64 {
	if a.profile.balancedUsual && n.allocatable.milliCPU > 0 && n.allocatable.memory > 0 {
		cpu, memory := float64(n.allocatable.milliCPU), float64(n.allocatable.memory)
		part := func(used int64, all float64) float64 { return min(1, float64(used)/all) }
		without := math.Abs(part(n.requested.milliCPU, cpu) - part(n.requested.memory, memory))
		with := math.Abs(part(n.requested.milliCPU+a.pod.requests.milliCPU, cpu) - part(n.requested.memory+a.pod.requests.memory, memory))
		return topScore/2 + (topScore/2+int64((1-with/2)*topScore)-int64((1-without/2)*topScore))/2
	}
	with := a.evenness(n, &a.pod.requests)
	without := a.evenness(n, &amounts{})
	return topScore/2 + (topScore/2+with-without)/2
}

func (a *attempt) evenness(n *nodeInfo, more *amounts) int64 {
	var room [8]float64
	parts := room[:0]
	var sum float64
	for _, r := range a.profile.balanced {
		capacity := n.allocatable.of(r.name)
		if capacity == 0 || (!isDefaulted(r.name) && r.name != corev1.ResourceEphemeralStorage && a.pod.requests.of(r.name) == 0) {
			continue
		}
		part := min(1, float64(n.requested.of(r.name)+more.of(r.name))/float64(capacity))
		parts = append(parts, part)
		sum += part
	}
	deviation := 0.0
	switch {
	case len(parts) == 2:
		deviation = math.Abs((parts[0] - parts[1]) / 2)
	case len(parts) > 2:
		mean, squares := sum/float64(len(parts)), 0.0
		for _, p := range parts {
			squares += (p - mean) * (p - mean)
		}
		deviation = math.Sqrt(squares / float64(len(parts)))
	}
	return int64((1 - deviation) * topScore)
}

// imageLocality prefers nodes that have the pod's images; those that few nodes
// have count less, so that pods do not heap up there.
func imageLocality(n *nodeInfo, p *podInfo, everywhere map[string]int, nodes int) int64 {
	var sum int64
	for _, name := range p.images {
		if size, ok := n.images[name]; ok {
			sum += int64(float64(size) * (float64(everywhere[name]) / float64(nodes)))
		}
	}
	limit := int64(maxImage * p.containers)
	sum = min(max(sum, minImage), limit)
	return topScore * (sum - minImage) / (limit - minImage)
}

// untoleratedPreferences counts the PreferNoSchedule taints not tolerated. Nil:
// there are none anywhere.
func untoleratedPreferences(p *podInfo, feasible []*nodeInfo) []int64 {
	var scores []int64
	for i, n := range feasible {
		if !n.special {
			continue
		}
		for j := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[j]
			if !prefersNotScheduling(t) || toleratesPreference(p.pod, t) {
				continue
			}
			if scores == nil {
				scores = make([]int64, len(feasible))
			}
			scores[i]++
		}
	}
	return scores
}

func toleratesPreference(pod *corev1.Pod, t *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		tol := &pod.Spec.Tolerations[i]
		if (tol.Effect == "" || tol.Effect == corev1.TaintEffectPreferNoSchedule) && tol.ToleratesTaint(quiet, t, true) {
			return true
		}
	}
	return false
}

func nodePreferences(a *attempt, feasible []*nodeInfo) []int64 {
	own, added := a.pod.preferred, a.profile.addedAffinity.preferred
	if own == nil && added == nil {
		return nil
	}
	scores := make([]int64, len(feasible))
	for i, n := range feasible {
		if own != nil {
			scores[i] += own.Score(n.node)
		}
		if added != nil {
			scores[i] += added.Score(n.node)
		}
	}
	return scores
}

// moreIsBetter scales to 0..100 by the highest.
func moreIsBetter(s []int64) {
	var high int64
	for _, v := range s {
		high = max(high, v)
	}
	for i := range s {
		if high > 0 {
			s[i] = s[i] * topScore / high
		}
	}
}

// fewerIsBetter is moreIsBetter upside down.
func fewerIsBetter(s []int64) {
	moreIsBetter(s)
	for i := range s {
		s[i] = topScore - s[i]
	}
}

// left is the count of a node that takes no part in spreading; it gets 0.
const leftOut = -1

// spreadOut turns counts into scores, keeping the ratio between them.
func spreadOut(s []int64) {
	low, high := int64(math.MaxInt64), int64(0)
	for _, v := range s {
		if v != leftOut {
			low, high = min(low, v), max(high, v)
		}
	}
	for i := range s {
		switch {
		case s[i] == leftOut:
			s[i] = 0
		case high == 0:
			s[i] = topScore
		default:
			s[i] = topScore * (high + low - s[i]) / high
		}
	}
}

// stretch puts the lowest at 0 and the highest at 100.
func stretch(s []int64) {
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	for _, v := range s {
		low, high = min(low, v), max(high, v)
	}
	for i := range s {
		if high > low {
			s[i] = int64(topScore * (float64(s[i]-low) / float64(high-low)))
		} else {
			s[i] = 0
		}
	}
}
