package schedcheck

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func testNode(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourcePods: resource.MustParse("5"),
	}}}
	for _, f := range change {
		f(n)
	}
	return n
}

func testPod(name, node, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: node, SchedulerName: "s", Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
		}}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func apart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{webTerm}}}
}

func near(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{webTerm}}}
}

func spread(change ...func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	c := corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: webTerm.LabelSelector}
	for _, f := range change {
		f(&c)
	}
	return func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{c} }
}

var webTerm = corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, TopologyKey: corev1.LabelHostname}

func stateOf(objects ...any) *State {
	s := &State{Nodes: map[string]*corev1.Node{}, Pods: map[types.UID]*corev1.Pod{}, Namespaces: map[string]map[string]string{"red": {"team": "a"}}}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			s.Nodes[o.Name] = o
		case *corev1.Pod:
			s.Pods[o.UID] = o
		}
	}
	return s
}

// TestRefusals is the table of rules, worked out by hand.
func TestRefusals(t *testing.T) {
	sidecar := corev1.ContainerRestartPolicyAlways
	honor, two := corev1.NodeInclusionPolicyHonor, int32(2)
	taint := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
	}
	port := func(ip string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: ip}}
		}
	}
	initCPU := func(cpu string, policy *corev1.ContainerRestartPolicy) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{RestartPolicy: policy, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}})
		}
	}
	for _, tt := range []struct {
		name  string
		state *State
		pod   *corev1.Pod
		want  string // rules, for node a
	}{
		{"room to the last", stateOf(testNode("a"), testPod("x", "a", "600m")), testPod("p", "", "400m"), ""},
		{"too much CPU", stateOf(testNode("a"), testPod("x", "a", "600m")), testPod("p", "", "401m"), "NodeResourcesFit"},
		{"an ended pod takes nothing", stateOf(testNode("a"), testPod("x", "a", "600m", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })), testPod("p", "", "1"), ""},
		{"a pod on its way out does", stateOf(testNode("a"), testPod("x", "a", "600m", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })), testPod("p", "", "1"), "NodeResourcesFit"},
		{"overcommitted by others in what it does not ask for", stateOf(testNode("a"), testPod("x", "a", "2")), testPod("p", "", "0"), ""},
		{"init container", stateOf(testNode("a")), testPod("p", "", "100m", initCPU("1100m", nil)), "NodeResourcesFit"},
		{"init container beside a sidecar", stateOf(testNode("a")), testPod("p", "", "100m", initCPU("300m", &sidecar), initCPU("800m", nil)), "NodeResourcesFit"},
		{"init container before a sidecar", stateOf(testNode("a")), testPod("p", "", "100m", initCPU("800m", nil), initCPU("300m", &sidecar)), ""},
		{"pod's own resources", stateOf(testNode("a")), testPod("p", "", "100m", func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
		}), "NodeResourcesFit"},
		{"overhead", stateOf(testNode("a")), testPod("p", "", "900m", func(p *corev1.Pod) {
			p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("101m")}
		}), "NodeResourcesFit"},
		{"unknown resource", stateOf(testNode("a")), testPod("p", "", "0", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[gpu] = resource.MustParse("1")
		}), "NodeResourcesFit"},
		{"port taken", stateOf(testNode("a"), testPod("x", "a", "0", port("192.0.2.1"))), testPod("p", "", "0", port("")), "NodePorts"},
		{"port of another address", stateOf(testNode("a"), testPod("x", "a", "0", port("192.0.2.1"))), testPod("p", "", "0", port("192.0.2.2")), ""},
		{"taint", stateOf(testNode("a", taint)), testPod("p", "", "0"), "TaintToleration"},
		{"taint tolerated", stateOf(testNode("a", taint)), testPod("p", "", "0", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Value: "v"}}
		}), ""},
		{"another value tolerated", stateOf(testNode("a", taint)), testPod("p", "", "0", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Value: "w"}}
		}), "TaintToleration"},
		{"cordoned", stateOf(testNode("a", func(n *corev1.Node) { n.Spec.Unschedulable = true })), testPod("p", "", "0"), "NodeUnschedulable"},
		{"selector", stateOf(testNode("a")), testPod("p", "", "0", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"x": "y"} }), "NodeAffinity"},
		{"own anti-affinity", stateOf(testNode("a"), testPod("x", "a", "0")), testPod("p", "", "0", apart), "InterPodAffinity"},
		{"theirs", stateOf(testNode("a"), testPod("x", "a", "0", apart)), testPod("p", "", "0"), "InterPodAffinity"},
		{"theirs, another namespace", stateOf(testNode("a"), testPod("x", "a", "0", apart)), testPod("p", "", "0", func(p *corev1.Pod) { p.Namespace = "blue" }), ""},
		{"the first of those that belong together", stateOf(testNode("a")), testPod("p", "", "0", near), ""},
		{"the second elsewhere", stateOf(testNode("a"), testNode("b"), testPod("x", "b", "0")), testPod("p", "", "0", near), "InterPodAffinity"},
		{"spread", stateOf(testNode("a"), testNode("b"), testPod("x", "a", "0")), testPod("p", "", "0", spread()), "PodTopologySpread"},
		{"spread, the other node left out", stateOf(testNode("a"), testNode("b", taint), testPod("x", "a", "0")),
			testPod("p", "", "0", spread(func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor })), ""},
		{"spread, too few domains", stateOf(testNode("a"), testPod("x", "a", "0")),
			testPod("p", "", "0", spread(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &two })), "PodTopologySpread"},
		{"spread, no label", stateOf(testNode("a")), testPod("p", "", "0", spread(func(c *corev1.TopologySpreadConstraint) { c.TopologyKey = "rack" })), "PodTopologySpread"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.state.Refusals(tt.pod, "a")
			if rules := strings.Join(slices.Sorted(maps.Keys(got)), " "); rules != tt.want {
				t.Errorf("refused by %q, want %q: %v", rules, tt.want, got)
			}
		})
	}
}

// TestJudge: histories with a fault and without.
func TestJudge(t *testing.T) {
	small := func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("500m") }
	type story struct {
		events []Event
		marks  []int64
		others []types.UID
	}
	node := func(r int64, n *corev1.Node) Event { return Event{Revision: r, Node: n} }
	pod := func(r int64, p *corev1.Pod) Event { return Event{Revision: r, Pod: p} }
	for _, tt := range []struct {
		name string
		story
		want []string
	}{
		{"fits", story{events: []Event{node(1, testNode("a")), pod(2, testPod("p", "", "1")), pod(3, testPod("p", "a", "1"))}}, nil},
		{"overcommitted", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "1")), pod(3, testPod("p", "a", "1")), pod(4, testPod("q", "", "1")), pod(5, testPod("q", "a", "1")),
		}}, []string{"overcommitted", "NodeResourcesFit"}},
		{"overcommitted by another's pod a moment ago", story{others: []types.UID{"o"}, events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "1")), pod(3, testPod("o", "a", "1")), pod(4, testPod("p", "a", "1")),
		}}, nil},
		{"that was long known", story{others: []types.UID{"o"}, marks: []int64{3}, events: []Event{
			node(1, testNode("a")), pod(2, testPod("o", "a", "1")), pod(4, testPod("p", "", "1")), pod(5, testPod("p", "a", "1")),
		}}, []string{"NodeResourcesFit"}},
		{"the node shrank a moment ago", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "1")), node(3, testNode("a", small)), pod(4, testPod("p", "a", "1")),
		}}, nil},
		{"the node is gone a moment ago", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "1")), {Revision: 3, Node: testNode("a"), Gone: true}, pod(4, testPod("p", "a", "1")),
		}}, nil},
		{"never such a node", story{events: []Event{pod(2, testPod("p", "", "1")), pod(4, testPod("p", "a", "1"))}}, []string{"no such node"}},
		{"bound in the other order", story{events: []Event{
			node(1, testNode("a")), node(2, testNode("b")), pod(3, testPod("p", "", "0")), pod(4, testPod("q", "", "0", near)), pod(5, testPod("q", "a", "0", near)), pod(6, testPod("p", "a", "0")),
		}}, nil},
		{"needs one that was not there", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("q", "", "0", near, func(p *corev1.Pod) { p.Labels = nil })), pod(3, testPod("q", "a", "0", near)),
		}}, []string{"InterPodAffinity"}},
		{"not apart, whatever the order", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "0", apart)), pod(3, testPod("q", "", "0")), pod(4, testPod("q", "a", "0")), pod(5, testPod("p", "a", "0", apart)),
		}}, []string{"InterPodAffinity"}},
		{"skewed, not knowing the other node", story{events: []Event{
			node(1, testNode("a")), node(2, testNode("b")), pod(3, testPod("p", "", "0", spread())), pod(4, testPod("p", "a", "0", spread())),
			pod(5, testPod("q", "", "0", spread())), pod(6, testPod("q", "a", "0", spread())),
		}}, nil},
		{"skewed", story{marks: []int64{2}, events: []Event{
			node(1, testNode("a")), node(2, testNode("b")), pod(3, testPod("p", "", "0", spread())), pod(4, testPod("p", "a", "0", spread())),
			pod(5, testPod("q", "", "0", spread())), pod(6, testPod("q", "a", "0", spread())),
		}}, []string{"PodTopologySpread"}},
		{"another scheduler's", story{events: []Event{
			node(1, testNode("a")), pod(2, testPod("p", "", "0", func(p *corev1.Pod) { p.Spec.SchedulerName = "z" })), pod(3, testPod("p", "a", "0", func(p *corev1.Pod) { p.Spec.SchedulerName = "z" })),
		}}, []string{`scheduler "z"`}},
		{"moved", story{events: []Event{
			node(1, testNode("a")), node(2, testNode("b")), pod(3, testPod("p", "", "0")), pod(4, testPod("p", "a", "0")), pod(5, testPod("p", "b", "0")),
		}}, []string{"moved"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &History{Namespaces: stateOf().Namespaces, Schedulers: []string{"s"}}
			for _, e := range tt.events {
				h.Add(e)
			}
			for _, m := range tt.marks {
				h.Mark(m)
			}
			for _, o := range tt.others {
				h.Outsider(o)
			}
			got := h.Judge().Faults
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %q", got, tt.want)
			}
			for i, w := range tt.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("fault %d is %q, want %q in it", i, got[i], w)
				}
			}
		})
	}
}

func TestOverlooked(t *testing.T) {
	h := &History{Namespaces: stateOf().Namespaces, Schedulers: []string{"s"}}
	for i, o := range []*corev1.Pod{
		testPod("fits", "", "1"), testPod("big", "", "2"), testPod("else", "", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "z" }),
		testPod("gated", "", "1", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
	} {
		h.Add(Event{Revision: int64(i + 2), Pod: o})
	}
	h.Add(Event{Revision: 1, Node: testNode("a")})
	if got := fmt.Sprint(h.Overlooked()); got != "[pod fits waits, and would fit on node a]" {
		t.Error(got)
	}
	first := testPod("first", "", "1")
	first.Status.NominatedNodeName = "a"
	h.Add(Event{Revision: 9, Pod: first})
	if got := fmt.Sprint(h.Overlooked()); got != "[pod first waits, and would fit on node a]" {
		t.Errorf("with a nomination: %s", got)
	}
}
