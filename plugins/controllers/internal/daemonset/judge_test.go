package daemonset

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

// testDaemon is a set with the strategy "unavailable N", "surge N" or "on delete".
func testDaemon(strategy string, change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "ns", UID: "set"},
		Spec:       appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType}},
	}
	u := &appsv1.RollingUpdateDaemonSet{MaxUnavailable: new(intstr.FromInt32(1)), MaxSurge: new(intstr.FromInt32(0))}
	set.Spec.UpdateStrategy.RollingUpdate = u
	switch kind, n, _ := strings.Cut(strategy, " "); kind {
	case "unavailable":
		u.MaxUnavailable = new(intstr.Parse(n))
	case "surge":
		u.MaxSurge, u.MaxUnavailable = new(intstr.Parse(n)), new(intstr.FromInt32(0))
	case "on":
		set.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	}
	for _, f := range change {
		f(set)
	}
	return set
}

// testPod reads "a new ready": its name, then of: new (revision), ready, young (ready for
// a second), failed, ended, going (terminating), unbound (without a node).
func testPod(node, text string, at int) *corev1.Pod {
	words := strings.Fields(text)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: words[0], UID: types.UID(words[0]), Labels: map[string]string{"controller-revision-hash": "old"},
		CreationTimestamp: metav1.NewTime(now.Add(time.Duration(at)*time.Minute - time.Hour)),
	}}
	pod.Spec.NodeName = node
	pod.Status.Phase = corev1.PodPending
	since := now.Add(-time.Hour)
	for _, w := range words[1:] {
		switch w {
		case "new":
			pod.Labels["controller-revision-hash"] = "new"
		case "young":
			since = now.Add(-time.Second)
			fallthrough
		case "ready":
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		case "ended":
			pod.Status.Phase = corev1.PodSucceeded
		case "going":
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		case "unbound":
			pod.Spec.NodeName = ""
		case "running":
			pod.Status.Phase = corev1.PodRunning
		default:
			panic(w)
		}
	}
	return pod
}

// String says what the plan does: +node, -pod, !pod that has ended.
func (p *plan) String() string {
	var out []string
	for _, n := range p.create {
		out = append(out, "+"+n)
	}
	for _, pod := range p.remove {
		out = append(out, "-"+pod.Name)
	}
	for _, e := range p.ended {
		out = append(out, "!"+e.pod.Name)
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	minReady := func(s *appsv1.DaemonSet) { s.Spec.MinReadySeconds = 10 }
	for _, tt := range []struct {
		name string
		set  *appsv1.DaemonSet
		// nodes are parted by ";", their pods by ",". A node's name may be followed by
		// its taint's effect, or by "gone".
		nodes string
		want  string
		sums  string // desired current misscheduled ready available updated
	}{
		{"none yet", testDaemon(""), "n1:; n2:", "+n1 +n2", "2 0 0 0 0 0"},
		{"one each", testDaemon(""), "n1: a new ready; n2: b new", "", "2 2 0 1 1 2"},
		{"two on one", testDaemon(""), "n1: a new ready, b new ready", "-b", "1 1 0 1 1 1"},
		{"a terminating one is waited for", testDaemon(""), "n1: a new ready going", "", "1 1 0 1 1 1"},
		{"a failed one", testDaemon(""), "n1: a new failed; n2: b new ended", "!a !b", "2 2 0 0 0 2"},
		{"not wanted", testDaemon(""), "n1 NoExecute: a new ready, b new failed", "-a -b", "0 0 1 0 0 0"},
		{"may stay", testDaemon(""), "n1 NoSchedule: a new ready; n2 NoSchedule:", "", "0 0 1 0 0 0"},
		{"may stay, and has failed", testDaemon(""), "n1 NoSchedule: a new failed", "!a", "0 0 1 0 0 0"},
		{"the node is gone", testDaemon(""), "n1 gone: a new ready, b new unbound", "-b", "0 0 0 0 0 0"},
		{"young", testDaemon("", minReady), "n1: a new young", "", "1 1 0 1 0 1"},
		{"one at a time", testDaemon(""), "n1: a ready; n2: b ready", "-a", "2 2 0 2 2 0"},
		{"one is down", testDaemon(""), "n1: a ready; n2: b new running", "", "2 2 0 1 1 1"},
		{"one is young", testDaemon("", minReady), "n1: a ready; n2: b new young", "", "2 2 0 2 1 1"},
		{"one is missing", testDaemon(""), "n1: a ready; n2:", "+n2", "2 1 0 1 1 0"},
		{"one is going", testDaemon(""), "n1: a ready; n2: b ready going", "", "2 2 0 2 2 0"},
		{"an old one that is down costs nothing", testDaemon(""), "n1: a ready; n2: b running; n3: c", "-b -c", "3 3 0 1 1 0"},
		{"half, rounded up", testDaemon("unavailable 50%"), "n1: a ready; n2: b ready; n3: c ready", "-a -b", "3 3 0 3 3 0"},
		{"no update on delete", testDaemon("on delete"), "n1: a ready; n2: b ready, c new ready", "-c", "2 2 0 2 2 0"},
		{"surge", testDaemon("surge 1"), "n1: a ready; n2: b ready", "+n1", "2 2 0 2 2 0"},
		{"surge waits", testDaemon("surge 1"), "n1: a ready, c new; n2: b ready", "", "2 2 0 2 2 0"},
		{"surge goes on", testDaemon("surge 1"), "n1: a ready, c new ready; n2: b ready", "+n2 -a", "2 2 0 2 2 0"},
		{"surge beside one that is down", testDaemon("surge 1"), "n1: a ready, c new; n2: b running", "+n2", "2 2 0 1 1 0"},
		{"surge, the old one fell", testDaemon("surge 1"), "n1: a running, c new", "-a", "1 1 0 0 0 0"},
		{"surge, two old ones", testDaemon("surge 1"), "n1: a ready, b ready, c new", "-b", "1 1 0 1 1 0"},
		{"surge, where it may but stay", testDaemon("surge 1"), "n1 NoSchedule: a ready", "", "0 0 1 0 0 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBoard(newRules(tt.set, "new"))
			for text := range strings.SplitSeq(tt.nodes, ";") {
				head, list, _ := strings.Cut(text, ":")
				words := strings.Fields(head)
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: words[0]}}
				if len(words) > 1 {
					node.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffect(words[1])}}
				}
				if len(words) > 1 && words[1] == "gone" {
					node = nil
				}
				var pods []*corev1.Pod
				for i, text := range strings.Split(list, ",") {
					if strings.TrimSpace(text) != "" {
						pods = append(pods, testPod(words[0], text, i))
					}
				}
				b.put(words[0], node != nil, b.judge(node, pods, now), now)
			}
			if got := b.plan().String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			s := b.status(tt.set, nil)
			if got := fmt.Sprint(s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled, s.NumberReady, s.NumberAvailable, s.UpdatedNumberScheduled); got != tt.sums {
				t.Errorf("the status has %s, want %s", got, tt.sums)
			}
		})
	}
}

func TestFits(t *testing.T) {
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "ssd"}}}
		change(n)
		return n
	}
	taint := func(key string, effect corev1.TaintEffect) *corev1.Node {
		return node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} })
	}
	plain := node(func(*corev1.Node) {})
	for _, tt := range []struct {
		name        string
		spec        corev1.PodSpec
		node        *corev1.Node
		should, may bool
	}{
		{"any", corev1.PodSpec{}, plain, true, true},
		{"another node's", corev1.PodSpec{NodeName: "n2"}, plain, false, false},
		{"this node's", corev1.PodSpec{NodeName: "n1"}, plain, true, true},
		{"selected", corev1.PodSpec{NodeSelector: map[string]string{"disk": "ssd"}}, plain, true, true},
		{"not selected", corev1.PodSpec{NodeSelector: map[string]string{"disk": "tape"}}, plain, false, false},
		{"not ready", corev1.PodSpec{}, taint("node.kubernetes.io/not-ready", "NoExecute"), true, true},
		{"unreachable", corev1.PodSpec{}, taint("node.kubernetes.io/unreachable", "NoExecute"), true, true},
		{"full disk", corev1.PodSpec{}, taint("node.kubernetes.io/disk-pressure", "NoSchedule"), true, true},
		{"unschedulable", corev1.PodSpec{}, taint("node.kubernetes.io/unschedulable", "NoSchedule"), true, true},
		{"without a network", corev1.PodSpec{}, taint("node.kubernetes.io/network-unavailable", "NoSchedule"), false, true},
		{"without need of a network", corev1.PodSpec{HostNetwork: true}, taint("node.kubernetes.io/network-unavailable", "NoSchedule"), true, true},
		{"tainted", corev1.PodSpec{}, taint("k", "NoSchedule"), false, true},
		{"tainted, and to be left", corev1.PodSpec{}, taint("k", "NoExecute"), false, false},
		{"a wish", corev1.PodSpec{}, taint("k", "PreferNoSchedule"), true, true},
		{"tolerated", corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: "k", Operator: "Exists"}}}, taint("k", "NoExecute"), true, true},
		{"required affinity", corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"ssd"}}}}},
		}}}}, plain, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := testDaemon("")
			set.Spec.Template.Spec = tt.spec
			if should, may := newRules(set, "new").fits(tt.node); should != tt.should || may != tt.may {
				t.Errorf("got %t, %t; want %t, %t", should, may, tt.should, tt.may)
			}
		})
	}
}

// TestNewPod: the pod's demand for its node takes the place of the template's.
func TestNewPod(t *testing.T) {
	set := testDaemon("")
	set.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "7"}
	set.Spec.Template.Spec.Tolerations = []corev1.Toleration{
		{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](3)}, {Key: "mine", Operator: "Exists"},
	}
	set.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}, {}}},
	}}
	pod := newRules(set, "new").newPod("n1")
	if got := target(pod); got != "n1" {
		t.Errorf("the pod is for %q, want n1", got)
	}
	if n := len(pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms); n != 1 {
		t.Errorf("the affinity has %d terms, want 1", n)
	}
	if n := len(set.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms); n != 2 {
		t.Error("the template was changed")
	}
	if got := len(pod.Spec.Tolerations); got != 7 || pod.Spec.Tolerations[0].TolerationSeconds != nil {
		t.Errorf("tolerations are %+v, want those of daemons and one more", pod.Spec.Tolerations)
	}
	if pod.Labels["controller-revision-hash"] != "new" || pod.Labels["pod-template-generation"] != "7" {
		t.Errorf("labels are %v", pod.Labels)
	}
}

// BenchmarkNode is the cost of a change on one of 1,000 nodes; BenchmarkWhole that of a
// new generation.
func BenchmarkNode(b *testing.B) { benchmark(b, 1) }

func BenchmarkWhole(b *testing.B) { benchmark(b, 1000) }

func benchmark(b *testing.B, judged int) {
	board := newBoard(newRules(testDaemon("unavailable 1"), "new"))
	nodes, pods := make([]*corev1.Node, 1000), make([][]*corev1.Pod, 1000)
	for i := range nodes {
		nodes[i] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		pods[i] = []*corev1.Pod{testPod(nodeName(i), "p"+strconv.Itoa(i)+" new ready", i)}
		board.put(nodeName(i), true, board.judge(nodes[i], pods[i], now), now)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i := range judged {
			board.put(nodeName(i), true, board.judge(nodes[i], pods[i], now), now)
		}
		if p := board.plan(); len(p.remove) > 0 || board.sum.available != 1000 {
			b.Fatal(p)
		}
	}
}
