package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// zone is how many nodes of one zone are ready and how many are not.
type zone struct{ ready, down int }

// zoneState is how a zone is doing. The names are upstream's, in its metrics and logs.
type zoneState string

const (
	zoneNormal  zoneState = "Normal"
	zonePartial zoneState = "PartialDisruption"
	zoneFull    zoneState = "FullDisruption"
)

// fewDown nodes of a zone that are not ready are no disruption, whatever their share.
const fewDown = 2

// state tells it: without any ready node a zone is down; with a share of them it is
// partly.
func (z zone) state(threshold float64) zoneState {
	switch {
	case z.ready == 0 && z.down > 0:
		return zoneFull
	case z.down > fewDown && float64(z.down)/float64(z.ready+z.down) >= threshold:
		return zonePartial
	}
	return zoneNormal
}

// pace is the time between two nodes of the zone that are given up; false if none is. A
// zone partly down is given up slowly, and a small one not at all: what is left of it
// could not take the pods. One that is down as a whole, while others are up, is given up
// at the usual pace.
func (t *Timing) pace(z zone) (time.Duration, bool) {
	switch {
	case z.state(t.UnhealthyZone) != zonePartial:
		return t.EvictionInterval, true
	case z.ready+z.down > t.LargeZone:
		return t.SlowEvictionInterval, true
	}
	return 0, false
}

func zoneOf(n *corev1.Node) string {
	region, name := n.Labels[corev1.LabelTopologyRegion], n.Labels[corev1.LabelTopologyZone]
	if region == "" && name == "" {
		return ""
	}
	return region + "/" + name
}

// zonesOf counts the nodes of all zones.
func zonesOf(all []*corev1.Node) map[string]zone {
	out := map[string]zone{}
	for _, n := range all {
		z := out[zoneOf(n)]
		if isReady(n) {
			z.ready++
		} else {
			z.down++
		}
		out[zoneOf(n)] = z
	}
	return out
}
