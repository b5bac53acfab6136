package scheduler

import (
	"math"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Weights of the scores, upstream's defaults. Each score is from 0 to 100.
const (
	weightTaints   = 3
	weightAffinity = 2
	weightSpread   = 2
	weightSocial   = 2
	weightFit      = 1
	weightBalance  = 1
	weightImages   = 1
	topScore       = 100
)

// An image counts for something from minImage on, and no more beyond maxImage
// for each container.
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// best picks the node with the highest score; among equals, one by chance.
func best(c *nodeCache, a *attempt, feasible []*nodeInfo, services []labels.Selector) *nodeInfo {
	if len(feasible) == 1 {
		return feasible[0]
	}
	total := make([]float64, len(feasible))
	for i, n := range feasible {
		total[i] = weightFit*leastAllocated(n, a.pod) + weightBalance*balanced(n, a.pod) + weightImages*imageLocality(n, a.pod, c.images, len(c.list))
	}
	mix := func(weight float64, scores []float64, normalize func([]float64)) {
		if scores == nil {
			return
		}
		normalize(scores)
		for i := range total {
			total[i] += weight * scores[i]
		}
	}
	mix(weightTaints, untoleratedPreferences(a.pod, feasible), fewerIsBetter)
	mix(weightAffinity, nodePreferences(a.pod, feasible), moreIsBetter)
	mix(weightSpread, softSpread(c, a, feasible, services), spreadOut)
	mix(weightSocial, socialScores(c, a, feasible), stretch)
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

// leastAllocated prefers nodes with much left.
func leastAllocated(n *nodeInfo, p *podInfo) float64 {
	left := func(capacity, used int64) float64 {
		if capacity == 0 || used > capacity {
			return 0
		}
		return float64((capacity - used) * topScore / capacity)
	}
	return math.Floor((left(n.allocatable.milliCPU, n.scored.milliCPU+p.scored.milliCPU) + left(n.allocatable.memory, n.scored.memory+p.scored.memory)) / 2)
}

// balanced prefers nodes whose CPU and memory would be used alike.
func balanced(n *nodeInfo, p *podInfo) float64 {
	part := func(capacity, used int64) float64 {
		if capacity == 0 {
			return 0
		}
		return min(1, float64(used)/float64(capacity))
	}
	cpu := part(n.allocatable.milliCPU, n.requested.milliCPU+p.requests.milliCPU)
	memory := part(n.allocatable.memory, n.requested.memory+p.requests.memory)
	return math.Floor((1 - math.Abs(cpu-memory)/2) * topScore)
}

// imageLocality prefers nodes that have the pod's images; those that few nodes
// have count less, so that pods do not heap up there.
func imageLocality(n *nodeInfo, p *podInfo, everywhere map[string]int, nodes int) float64 {
	if len(n.images) == 0 {
		return 0
	}
	var sum float64
	for _, name := range p.images {
		if size, ok := n.images[name]; ok {
			sum += float64(size) * float64(everywhere[name]) / float64(nodes)
		}
	}
	limit := float64(maxImage * p.containers)
	sum = min(max(sum, minImage), limit)
	return math.Floor(topScore * (sum - minImage) / (limit - minImage))
}

// untoleratedPreferences counts the PreferNoSchedule taints not tolerated.
func untoleratedPreferences(p *podInfo, feasible []*nodeInfo) []float64 {
	var scores []float64
	for i, n := range feasible {
		for j := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[j]
			if !prefersNotScheduling(t) || toleratesPreference(p.pod, t) {
				continue
			}
			if scores == nil {
				scores = make([]float64, len(feasible))
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

func nodePreferences(p *podInfo, feasible []*nodeInfo) []float64 {
	if p.preferred == nil {
		return nil
	}
	scores := make([]float64, len(feasible))
	for i, n := range feasible {
		scores[i] = float64(p.preferred.Score(n.node))
	}
	return scores
}

// moreIsBetter scales to 0..100 by the highest.
func moreIsBetter(s []float64) {
	var high float64
	for _, v := range s {
		high = max(high, v)
	}
	for i := range s {
		if high > 0 {
			s[i] = math.Floor(s[i] * topScore / high)
		}
	}
}

// fewerIsBetter is moreIsBetter upside down.
func fewerIsBetter(s []float64) {
	moreIsBetter(s)
	for i := range s {
		s[i] = topScore - s[i]
	}
}

// spreadOut turns counts into scores, keeping the ratio between them.
func spreadOut(s []float64) {
	low, high := math.Inf(1), 0.0
	for _, v := range s {
		low, high = min(low, v), max(high, v)
	}
	for i := range s {
		if high == 0 {
			s[i] = topScore
			continue
		}
		s[i] = math.Floor(topScore * (high + low - s[i]) / high)
	}
}

// stretch puts the lowest at 0 and the highest at 100.
func stretch(s []float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range s {
		low, high = min(low, v), max(high, v)
	}
	for i := range s {
		if high > low {
			s[i] = math.Floor(topScore * (s[i] - low) / (high - low))
		} else {
			s[i] = 0
		}
	}
}
