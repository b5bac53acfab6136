package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// scoreKind is one of the built-in scores.
type scoreKind int

// The scores, named as upstream's plugins.
const (
	scoreTaintToleration scoreKind = iota
	scoreNodeAffinity
	scorePodTopologySpread
	scoreInterPodAffinity
	scoreNodeResourcesFit
	scoreNodeResourcesBalancedAllocation
	scoreImageLocality
	numScores
)

// profile is how the pods of one schedulerName are treated. It is never changed
// once it is in use.
type profile struct {
	schedulerName string
	filters       filterSet        // those that are on
	weights       [numScores]int64 // 0: off
	percentage    int              // of nodes to find; 0 adapts
	parts         []part
	fit           fitArgs
	balanced      []resourceWeight
	balancedUsual bool // CPU and memory
	spread        spreadArgs
	social        socialArgs
	addedAffinity addedAffinity
	preemption    preemptionArgs
	partArgs      partArgs
}

type resourceWeight struct {
	name   corev1.ResourceName
	weight int64
}

// scoring is how NodeResourcesFit likes nodes.
type scoring int

const (
	leastAllocatedScoring scoring = iota
	mostAllocatedScoring
	requestedToCapacityScoring
)

// shapePoint: at a utilization (0 to 100) a score (0 to 10), in rising order.
type shapePoint struct{ utilization, score int64 }

type fitArgs struct {
	scoring       scoring
	resources     []resourceWeight
	usual         bool // least allocated of CPU and memory, alike
	shape         []shapePoint
	ignored       map[corev1.ResourceName]bool
	ignoredGroups map[string]bool
}

// spreadArgs are the constraints of pods that have none. listed nil: upstream's
// (3 by host name, 5 by zone), for pods of a controller or a Service.
type spreadArgs struct {
	listed []corev1.TopologySpreadConstraint
	system bool
}

type socialArgs struct {
	hardWeight             int64 // of others' required affinity as a wish
	ignorePreferredOfThere bool
}

// addedAffinity is what NodeAffinity asks of every pod's node besides. Nil: nothing.
type addedAffinity struct {
	required  *nodeaffinity.NodeSelector
	preferred *nodeaffinity.PreferredSchedulingTerms
}

type preemptionArgs struct {
	off                  bool
	minCandidatesPercent int
	minCandidates        int
}

// defaultProfile is upstream's default profile.
func defaultProfile(schedulerName string, percentage int) *profile {
	return &profile{
		schedulerName: schedulerName, filters: allFilters, percentage: percentage,
		weights: [numScores]int64{
			scoreTaintToleration: 3, scoreNodeAffinity: 2, scorePodTopologySpread: 2, scoreInterPodAffinity: 2,
			scoreNodeResourcesFit: 1, scoreNodeResourcesBalancedAllocation: 1, scoreImageLocality: 1,
		},
		fit:        fitArgs{resources: cpuAndMemory()},
		balanced:   cpuAndMemory(),
		spread:     spreadArgs{system: true},
		social:     socialArgs{hardWeight: 1},
		preemption: preemptionArgs{minCandidatesPercent: 10, minCandidates: 100},
		partArgs:   defaultPartArgs(),
	}
}

// settle works out shortcuts; it is called once the profile is complete.
func (pr *profile) settle() {
	pr.fit.usual = pr.fit.scoring == leastAllocatedScoring && slices.Equal(pr.fit.resources, cpuAndMemory())
	pr.balancedUsual = slices.Equal(pr.balanced, cpuAndMemory())
}

func cpuAndMemory() []resourceWeight {
	return []resourceWeight{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}
}

// systemSpread are upstream's default constraints.
var systemSpread = []corev1.TopologySpreadConstraint{
	{MaxSkew: 3, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{}},
	{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{}},
}
