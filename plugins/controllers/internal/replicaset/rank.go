package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// rankForDeletion returns pods in the order in which they should go, as
// upstream documents it: unassigned, pending, unknown, not ready, of lower
// deletion cost, on nodes with more related pods, ready for a shorter time,
// restarted more often, younger. Times are compared by magnitude only, so that
// repeated scaling does not always hit the same age group.
func rankForDeletion(pods, related []*corev1.Pod) []*corev1.Pod {
	onNode := make(map[string]int)
	for _, pod := range related {
		onNode[pod.Spec.NodeName]++
	}
	now := time.Now()
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			boolFirst(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			boolFirst(!control.IsReady(a), !control.IsReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]),
			compareAge(readySince(a), readySince(b), now, a, b),
			cmp.Compare(restarts(b), restarts(a)),
			compareAge(a.CreationTimestamp, b.CreationTimestamp, now, a, b),
		)
	})
	return sorted
}

// boolFirst orders true before false.
func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodPending, "":
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

func deletionCost(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func readySince(pod *corev1.Pod) metav1.Time {
	if c := control.Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// restarts returns the highest count of any container, sidecars included.
func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, s := range pod.Status.ContainerStatuses {
		n = max(n, s.RestartCount)
	}
	return n
}

// compareAge orders the younger first; unset times come before all. Pods of the
// same magnitude of age are ordered by UID, which is as good as chance.
func compareAge(ta, tb metav1.Time, now time.Time, a, b *corev1.Pod) int {
	if ta.Equal(&tb) {
		return 0
	}
	if ta.IsZero() || tb.IsZero() {
		return boolFirst(ta.IsZero(), tb.IsZero())
	}
	ra, rb := magnitude(now.Sub(ta.Time)), magnitude(now.Sub(tb.Time))
	if ra == rb {
		return cmp.Compare(a.UID, b.UID)
	}
	return cmp.Compare(ra, rb)
}

func magnitude(d time.Duration) int64 {
	if d < time.Second {
		return 0
	}
	return int64(math.Log2(d.Seconds())) + 1
}
