package statefulset

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

func testSet(replicas int, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "ns", UID: "set"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			PodManagementPolicy: appsv1.OrderedReadyPodManagement,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)},
			},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}},
		},
	}
	for _, f := range change {
		f(set)
	}
	return set
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
}

func from(start int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start} }
}

func partitioned(n int32) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
}

func unavailable(v string) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.Parse(v))
	}
}

func claimed(deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: deleted, WhenScaled: scaled}
	}
}

// testPod reads "3 new ready": an ordinal, then of: new (revision), ready, young (ready
// for a second), failed, ended, going (terminating), alien (without labels of identity).
func testPod(set *appsv1.StatefulSet, text string) *corev1.Pod {
	words := strings.Fields(text)
	i, _ := strconv.Atoi(words[0])
	pod := newPod(set, &set.Spec.Template, "db-old", i)
	pod.UID = types.UID("uid-" + words[0])
	pod.Status.Phase = corev1.PodPending
	since := now.Add(-time.Hour)
	for _, w := range words[1:] {
		switch w {
		case "new":
			pod.Labels[appsv1.StatefulSetRevisionLabel] = "db-new"
		case "young":
			since = now.Add(-time.Second)
			fallthrough
		case "ready":
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
		case "running":
			pod.Status.Phase = corev1.PodRunning
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		case "ended":
			pod.Status.Phase = corev1.PodSucceeded
		case "going":
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		case "alien":
			delete(pod.Labels, appsv1.StatefulSetPodNameLabel)
		default:
			panic(w)
		}
	}
	return pod
}

// String says what the plan does: +ordinal, -ordinal, and by word the rest.
func (p *plan) String() string {
	var out []string
	for _, group := range []struct {
		word string
		pods []*corev1.Pod
	}{{"retain ", p.retain}, {"supply ", p.supply}, {"mend ", p.mend}} {
		for _, pod := range group.pods {
			out = append(out, group.word+strings.TrimPrefix(pod.Name, "db-"))
		}
	}
	for _, i := range p.create {
		out = append(out, "+"+strconv.Itoa(i))
	}
	for _, pod := range p.remove {
		out = append(out, "-"+strings.TrimPrefix(pod.Name, "db-"))
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	minReady := func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 10 }
	deleted := func(s *appsv1.StatefulSet) { s.DeletionTimestamp = &metav1.Time{Time: now} }
	for _, tt := range []struct {
		name string
		set  *appsv1.StatefulSet
		pods string // parted by commas
		want string
	}{
		{"the first", testSet(3), "", "+0"},
		{"the second waits for the first", testSet(3), "0 running", ""},
		{"the second", testSet(3), "0 new ready", "+1"},
		{"the second waits for availability", testSet(3, minReady), "0 new young", ""},
		{"a gap", testSet(3), "0 new ready, 2 new ready", "+1"},
		{"an unready one holds up the gap", testSet(3), "0 running, 2 ready", ""},
		{"all at once", testSet(3, parallel), "", "+0 +1 +2"},
		{"start ordinal", testSet(2, parallel, from(5)), "0 new ready", "+5 +6 -0"},
		{"a failed one goes", testSet(2), "0 new failed, 1 new ready", "-0"},
		{"an ended one goes", testSet(2), "0 new ended, 1 new ready", "-0"},
		{"a failed one that goes is waited for", testSet(2), "0 new failed going", ""},
		{"a failed one in parallel", testSet(3, parallel), "0 new failed", "+1 +2 -0"},
		{"a terminating one is waited for", testSet(2), "0 new ready going", ""},
		{"a terminating one in parallel", testSet(2, parallel), "0 new ready going", "+1"},
		{"scaled down from the top", testSet(1), "0 new ready, 1 new ready, 2 new ready", "-2"},
		{"scaled down, one is going", testSet(1), "0 new ready, 1 new ready, 2 new ready going", ""},
		{"scaled down, one is not well", testSet(1), "0 new ready, 1 running, 2 new ready", "-2"},
		{"scaled down, the last is not well", testSet(1), "0 new ready, 1 new ready, 2 running", "-2"},
		{"scaled down, two are not well", testSet(1), "0 new ready, 1 running, 2 running", ""},
		{"scaled down, two have failed", testSet(1), "0 new ready, 1 failed, 2 failed", "-2"},
		{"scaled down waits for those that stay", testSet(1), "0 running, 1 new ready", ""},
		{"scaled down in parallel", testSet(1, parallel), "0 new running, 1 new ready, 2 running", "-2 -1"},
		{"scaled to nothing", testSet(0), "0 new ready", "-0"},
		{"update from the top", testSet(3), "0 ready, 1 ready, 2 ready", "-2"},
		{"update waits", testSet(3), "0 ready, 1 ready, 2 new running", ""},
		{"update goes on", testSet(3), "0 ready, 1 ready, 2 new ready", "-1"},
		{"update waits for availability", testSet(3, minReady), "0 ready, 1 ready, 2 new young", ""},
		{"partition", testSet(3, partitioned(2)), "0 ready, 1 ready, 2 new ready", ""},
		{"partition counts from the start", testSet(3, from(5), partitioned(1)), "5 ready, 6 ready, 7 new ready", "-6"},
		{"no update on delete", testSet(3, onDelete), "0 ready, 1 ready, 2 ready", ""},
		{"two at a time", testSet(4, unavailable("2")), "0 ready, 1 ready, 2 ready, 3 ready", "-3 -2"},
		{"half, rounded up", testSet(3, parallel, unavailable("50%")), "0 ready, 1 ready, 2 ready", "-2 -1"},
		{"one of two is down", testSet(4, parallel, unavailable("2")), "0 ready, 1 ready, 2 ready, 3 new running", "-2"},
		{"an old one that is down costs nothing", testSet(3, parallel), "0 running, 1 ready, 2 ready", "-0"},
		{"a missing one counts", testSet(3, parallel), "0 ready, 2 ready", "+1"},
		{"an ordered set is stuck", testSet(2), "0 ready, 1 running", ""},
		{"identity", testSet(1), "0 new ready alien", "mend 0"},
		{"deleted", testSet(3, deleted), "0 new ready", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &state{set: tt.set, claim: func(string) *corev1.PersistentVolumeClaim { return nil }, current: "db-old", update: "db-new", now: now}
			for text := range strings.SplitSeq(tt.pods, ",") {
				if text = strings.TrimSpace(text); text != "" {
					s.pods = append(s.pods, testPod(tt.set, text))
				}
			}
			if got := decide(s).String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDecideClaims(t *testing.T) {
	const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	for _, tt := range []struct {
		name            string
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		replicas        int
		pods            string
		owners          string // by claim: set, pod, stale, other or none
		want            string
		wantOwners      string // after mending and retaining
	}{
		{"nobody's", retain, retain, 1, "0 new ready", "none", "", "none"},
		{"no longer the set's", retain, retain, 1, "0 new ready", "set", "mend 0", "none"},
		{"the set's", remove, retain, 1, "0 new ready", "none", "mend 0", "set"},
		{"somebody else's", remove, remove, 1, "0 new ready", "other", "", "other"},
		{"scaled away", retain, remove, 0, "0 new ready", "none", "retain 0 -0", "pod"},
		{"scaled away, was the set's", remove, remove, 0, "0 new ready", "set", "retain 0 -0", "pod"},
		{"scaled away and kept", remove, retain, 0, "0 new ready", "set", "-0", "set"},
		{"back before it went", remove, remove, 1, "0 new ready", "pod", "mend 0", "set"},
		{"missing, of a pending pod", retain, retain, 1, "0 new", "", "supply 0", ""},
		{"of the pod before", retain, remove, 1, "", "stale", "", "stale"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := testSet(tt.replicas, claimed(tt.deleted, tt.scaled))
			s := &state{set: set, current: "db-new", update: "db-new", now: now}
			pod := testPod(set, "0 new ready")
			if tt.pods != "" {
				pod = testPod(set, tt.pods)
				s.pods = []*corev1.Pod{pod}
			}
			claim := newClaim(testSet(1, claimed(retain, retain)), &set.Spec.VolumeClaimTemplates[0], pod)
			switch tt.owners {
			case "set":
				claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)}
			case "pod":
				claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(pod, podKind)}
			case "stale":
				claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "db-0", UID: "gone"}}
			case "other":
				claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Thing", Name: "x", UID: "x", Controller: new(true)}}
			}
			s.claim = func(name string) *corev1.PersistentVolumeClaim {
				if tt.owners == "" || name != "data-db-0" {
					return nil
				}
				return claim
			}
			p := decide(s)
			if got := p.String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if len(p.mend)+len(p.retain) > 0 {
				setOwners(claim, set, pod)
			}
			got := "none"
			switch {
			case tt.owners == "":
				got = ""
			case controlled(claim, set.UID):
				got = "set"
			case controlled(claim, pod.UID):
				got = "pod"
			case len(claim.OwnerReferences) > 0 && claim.OwnerReferences[0].UID == "gone":
				got = "stale"
			case len(claim.OwnerReferences) > 0:
				got = "other"
			}
			if got != tt.wantOwners {
				t.Errorf("the claim is then of %q, want %q", got, tt.wantOwners)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	for _, tt := range []struct{ name, pods, want string }{
		{"before", "0 ready, 1 ready", "2 replicas, 2 ready, 2 available, 2 current, 0 updated, db-old to db-new"},
		{"half", "0 ready, 1 new running", "2 replicas, 1 ready, 1 available, 1 current, 1 updated, db-old to db-new"},
		{"one is going", "0 ready, 1 ready going", "2 replicas, 2 ready, 2 available, 1 current, 0 updated, db-old to db-new"},
		{"all but available", "0 new ready, 1 new young", "2 replicas, 2 ready, 1 available, 2 current, 2 updated, db-new to db-new"},
		{"one too many", "0 new ready, 1 new ready, 2 new ready", "3 replicas, 3 ready, 3 available, 0 current, 3 updated, db-old to db-new"},
		{"none yet", "", "0 replicas, 0 ready, 0 available, 0 current, 0 updated, db-old to db-new"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := testSet(2)
			set.Spec.MinReadySeconds = 10
			s := &state{set: set, current: "db-old", update: "db-new", now: now}
			for text := range strings.SplitSeq(tt.pods, ",") {
				if text = strings.TrimSpace(text); text != "" {
					s.pods = append(s.pods, testPod(set, text))
				}
			}
			g := decide(s).status
			got := fmt.Sprintf("%d replicas, %d ready, %d available, %d current, %d updated, %s to %s",
				g.Replicas, g.ReadyReplicas, g.AvailableReplicas, g.CurrentReplicas, g.UpdatedReplicas, g.CurrentRevision, g.UpdateRevision)
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestOrdinal(t *testing.T) {
	for _, tt := range []struct {
		pod  string
		want int
		ok   bool
	}{
		{"db-0", 0, true}, {"db-12", 12, true}, {"db-01", 0, false}, {"db", 0, false}, {"db-", 0, false}, {"db--1", 0, false},
		{"db-x-1", 0, false}, {"db-+1", 0, false}, {"db-99999999999", 0, false}, {"other-1", 0, false},
	} {
		if got, ok := ordinal("db", tt.pod); ok != tt.ok || ok && got != tt.want {
			t.Errorf("ordinal of %s: got %d, %t; want %d, %t", tt.pod, got, ok, tt.want, tt.ok)
		}
	}
}

// BenchmarkDecide is one decision about 1,000 pods.
func BenchmarkDecide(b *testing.B) {
	set := testSet(1000, parallel)
	s := &state{set: set, claim: func(string) *corev1.PersistentVolumeClaim { return nil }, current: "db-old", update: "db-new", now: now}
	for i := range 1000 {
		s.pods = append(s.pods, testPod(set, strconv.Itoa(i)+" ready"))
	}
	b.ReportAllocs()
	for b.Loop() {
		if p := decide(s); len(p.remove) != 1 {
			b.Fatal(p)
		}
	}
}
