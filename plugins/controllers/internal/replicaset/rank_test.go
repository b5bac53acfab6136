package replicaset

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestRankForDeletion lists pods in the order in which they must go.
func TestRankForDeletion(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	pod := func(name, node string, phase corev1.PodPhase, ready time.Duration, restarts int32, created time.Duration, cost string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: at(created)}}
		p.Spec.NodeName, p.Status.Phase = node, phase
		if ready > 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(ready)}}
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: restarts}}
		if cost != "" {
			p.Annotations = map[string]string{corev1.PodDeletionCost: cost}
		}
		return p
	}
	const run, hour = corev1.PodRunning, time.Hour
	want := []*corev1.Pod{
		pod("unassigned", "", corev1.PodPending, 0, 0, hour, ""),
		pod("pending", "n1", corev1.PodPending, 0, 0, hour, ""),
		pod("unknown", "n1", corev1.PodUnknown, 0, 0, hour, ""),
		pod("not-ready", "n1", run, 0, 0, hour, ""),
		pod("cheap", "n1", run, 16*hour, 0, 16*hour, "-5"),
		pod("crowded", "n1", run, 16*hour, 0, 16*hour, ""),
		pod("ready-lately", "n2", run, time.Minute, 0, 16*hour, ""),
		pod("restarted", "n3", run, 16*hour, 3, 16*hour, ""),
		pod("young", "n4", run, 16*hour, 0, time.Minute, ""),
		pod("old", "n5", run, 16*hour, 0, 16*hour, ""),
		pod("dear", "n6", run, 16*hour, 0, 16*hour, "5"),
	}
	// The same time for all that is not under test.
	same := want[5].Status.Conditions[0].LastTransitionTime
	for _, p := range want {
		if len(p.Status.Conditions) > 0 && p.Name != "ready-lately" {
			p.Status.Conditions[0].LastTransitionTime = same
		}
	}
	shuffled := slices.Clone(want)
	slices.Reverse(shuffled)
	var got, names []string
	for _, p := range rankForDeletion(shuffled, want) {
		got = append(got, p.Name)
	}
	for _, p := range want {
		names = append(names, p.Name)
	}
	if !slices.Equal(got, names) {
		t.Errorf("got  %v\nwant %v", got, names)
	}
}
