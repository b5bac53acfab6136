package attach

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testPod(namespace, name, node string, age time.Duration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func testVolume(modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	v.Spec.AccessModes = modes
	return v
}

// TestAttachmentName: the name is upstream's, which kubelets and attachers look for.
func TestAttachmentName(t *testing.T) {
	got := attachmentName(&corev1.CSIPersistentVolumeSource{Driver: "ext.example.com", VolumeHandle: "h2"}, "n2")
	if want := "csi-ec4fce6588d17dbf92e579b082ba6fa28489616d13a7b676cbdf272f95be0e0f"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNodesFor(t *testing.T) {
	once, many := testVolume(corev1.ReadWriteOnce), testVolume(corev1.ReadWriteOnce, corev1.ReadWriteMany)
	two := map[string][]*corev1.Pod{
		"n1": {testPod("a", "young", "n1", time.Minute)},
		"n2": {testPod("a", "middle", "n2", time.Hour), testPod("a", "old", "n2", 2*time.Hour)},
	}
	one := map[string][]*corev1.Pod{"n1": two["n1"]}
	for _, tt := range []struct {
		name          string
		volume        *corev1.PersistentVolume
		pods          map[string][]*corev1.Pod
		on            []string
		grant, refuse []string
	}{
		{name: "nobody", volume: once},
		{name: "first", volume: once, pods: one, grant: []string{"n1"}},
		{name: "there already", volume: once, pods: one, on: []string{"n1"}, grant: []string{"n1"}},
		{name: "elsewhere", volume: once, pods: one, on: []string{"n9"}, refuse: []string{"n1"}},
		{name: "two at once: the oldest pod's node", volume: once, pods: two, grant: []string{"n2"}, refuse: []string{"n1"}},
		{name: "two, the younger has it", volume: once, pods: two, on: []string{"n1"}, grant: []string{"n1"}, refuse: []string{"n2"}},
		{name: "only one pod may", volume: testVolume(corev1.ReadWriteOncePod), pods: two, grant: []string{"n2"}, refuse: []string{"n1"}},
		{name: "shared", volume: many, pods: two, on: []string{"n9"}, grant: []string{"n2", "n1"}},
		{name: "no modes", volume: testVolume(), pods: two, grant: []string{"n2", "n1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			grant, refuse := nodesFor(tt.volume, tt.pods, tt.on)
			// Both that have it keep it, in the order of age.
			if !slices.Equal(grant, tt.grant) || !slices.Equal(refuse, tt.refuse) {
				t.Errorf("got %v and refused %v, want %v and %v", grant, refuse, tt.grant, tt.refuse)
			}
		})
	}
}

func TestMayDetach(t *testing.T) {
	const name = "kubernetes.io/csi/d^h"
	node := func(inUse, isReady, out bool) *corev1.Node {
		n := &corev1.Node{}
		if inUse {
			n.Status.VolumesInUse = []corev1.UniqueVolumeName{"other", name}
		}
		status := corev1.ConditionUnknown
		if isReady {
			status = corev1.ConditionTrue
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		if out {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		}
		return n
	}
	for _, tt := range []struct {
		name   string
		node   *corev1.Node
		waited time.Duration
		may    bool
		in     time.Duration
	}{
		{name: "node is gone", may: true},
		{name: "not in use", node: node(false, true, false), may: true},
		{name: "in use on a ready node, for ever", node: node(true, true, false), waited: time.Hour},
		{name: "in use on a silent node", node: node(true, false, false), waited: time.Minute, in: 5 * time.Minute},
		{name: "in use on a node silent for long", node: node(true, false, false), waited: 6 * time.Minute, may: true},
		{name: "in use on a node out of service", node: node(true, false, true), may: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if may, in := mayDetach(tt.node, name, tt.waited); may != tt.may || in != tt.in {
				t.Errorf("got %v in %v, want %v in %v", may, in, tt.may, tt.in)
			}
		})
	}
}

func TestRefusal(t *testing.T) {
	local, foreign := testPod("a", "p1", "n1", 0), testPod("b", "p1", "n1", 0)
	for _, tt := range []struct {
		name   string
		others []*corev1.Pod
		want   string
	}{
		{"nobody known", nil, "Volume is already exclusively attached to one node and can't be attached to another"},
		{"pods of the namespace", []*corev1.Pod{testPod("a", "p2", "n1", 0), local}, "Volume is already used by pod(s) p1, p2"},
		{"of both", []*corev1.Pod{local, foreign}, "Volume is already used by pod(s) p1 and 1 pod(s) in different namespaces"},
		{"of others", []*corev1.Pod{foreign}, "Volume is already used by 1 pod(s) in different namespaces"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := refusal("data", "a", tt.others), `Multi-Attach error for volume "data" `+tt.want; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestOver(t *testing.T) {
	running := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	ended := corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}
	deleted := &metav1.Time{Time: time.Unix(1, 0)}
	for _, tt := range []struct {
		name    string
		phase   corev1.PodPhase
		deleted *metav1.Time
		states  []corev1.ContainerStatus
		want    bool
	}{
		{name: "new"},
		{name: "runs", phase: corev1.PodRunning, states: []corev1.ContainerStatus{running}},
		{name: "restarts", phase: corev1.PodRunning, states: []corev1.ContainerStatus{ended}},
		{name: "succeeded", phase: corev1.PodSucceeded, want: true},
		{name: "is ending", phase: corev1.PodRunning, deleted: deleted, states: []corev1.ContainerStatus{running, ended}},
		{name: "nothing is known of its containers", phase: corev1.PodRunning, deleted: deleted},
		{name: "has ended", phase: corev1.PodRunning, deleted: deleted, states: []corev1.ContainerStatus{ended}, want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: tt.deleted}, Status: corev1.PodStatus{Phase: tt.phase, ContainerStatuses: tt.states}}
			if got := over(pod); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestListed(t *testing.T) {
	attached := func(name string, yes bool) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: storagev1.VolumeAttachmentStatus{Attached: yes}}
	}
	gone := attached("gone", true)
	gone.DeletionTimestamp = &metav1.Time{}
	got := listed([]*storagev1.VolumeAttachment{attached("b", true), attached("a", true), attached("new", false), gone, attached("leaves", true), attached("unknown", true)},
		func(va *storagev1.VolumeAttachment) corev1.UniqueVolumeName {
			if va.Name == "unknown" {
				return ""
			}
			return corev1.UniqueVolumeName(va.Name)
		}, map[string]bool{"leaves": true})
	if len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("got %v, want a and b", got)
	}
}
