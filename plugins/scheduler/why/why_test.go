package why

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func node(name, cpu string, change ...func(*corev1.Node)) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "zone": "z-" + name}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("3"),
	}}}
	for _, f := range change {
		f(&n)
	}
	return n
}

func pod(name, on, cpu string, change ...func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: on, SchedulerName: "s", Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
		}}}},
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

// flat is a report as text: each node's failures, what is evicted, and the help.
func flat(r *Report) string {
	var b strings.Builder
	for _, f := range r.Blocked {
		fmt.Fprintf(&b, "*: %s: %s\n", f.Filter, f.Reason)
	}
	for _, n := range r.Nodes {
		if n.Fits {
			fmt.Fprintf(&b, "%s: fits\n", n.Name)
		}
		for _, f := range n.Failures {
			fmt.Fprintf(&b, "%s: %s: %s\n", n.Name, f.Filter, f.Reason)
		}
		if len(n.Evict) > 0 {
			fmt.Fprintf(&b, "%s: evict %s\n", n.Name, strings.Join(n.Evict, " "))
		}
	}
	for _, h := range r.Help {
		fmt.Fprintf(&b, "-> %s\n", h)
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	term := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, TopologyKey: "zone"}
	apart := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	}
	near := func(p *corev1.Pod) {
		p.Labels = nil
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	}
	spread := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: term.LabelSelector}}
	}
	prio := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
	port := func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}} }
	claim := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	}
	for _, tt := range []struct {
		name  string
		nodes []corev1.Node
		pods  []corev1.Pod
		pod   corev1.Pod
		want  []string // all in the text
		not   string
	}{
		{name: "no nodes", pod: pod("p", "", "1"), want: []string{"-> add a node: the cluster has none"}},
		{name: "it fits", nodes: []corev1.Node{node("a", "1")}, pod: pod("p", "", "1"), want: []string{"a: fits", `-> nothing that is looked at here keeps it from a`}},
		{name: "resources", nodes: []corev1.Node{node("a", "4"), node("b", "2")}, pods: []corev1.Pod{pod("x", "a", "3500m"), pod("y", "b", "1")}, pod: pod("p", "", "1500m"),
			want: []string{"a: NodeResourcesFit: wants 1500m of cpu: 500m is free of 4", "b: NodeResourcesFit: wants 1500m of cpu: 1 is free of 2", "-> free 1 of cpu: node a is short of the least"}},
		{name: "too large", nodes: []corev1.Node{node("a", "4")}, pod: pod("p", "", "5"), want: []string{"a: NodeResourcesFit: wants 5 of cpu: the node has 4 in all"}, not: "-> free"},
		{name: "pods", nodes: []corev1.Node{node("a", "4")}, pods: []corev1.Pod{pod("x", "a", "0"), pod("y", "a", "0"), pod("z", "a", "0")}, pod: pod("p", "", "0"),
			want: []string{"a: NodeResourcesFit: the node has 3 pods, and may have 3"}},
		{name: "all reasons", nodes: []corev1.Node{node("a", "1", func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = []corev1.Taint{{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}, {Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		})}, pod: pod("p", "", "2", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			want: []string{"NodeUnschedulable: the node is cordoned", "does not tolerate: gpu=yes:NoSchedule", "asks for disk=ssd", "wants 2 of cpu"}, not: "-> kubectl"},
		{name: "taint alone", nodes: []corev1.Node{node("a", "1", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "gpu", Value: "yes", Effect: corev1.TaintEffectNoSchedule}}
		})}, pod: pod("p", "", "1"), want: []string{`-> add toleration {key: gpu, value: "yes", effect: NoSchedule}`}},
		{name: "label alone", nodes: []corev1.Node{node("a", "1")}, pod: pod("p", "", "1", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), want: []string{"-> label a node: kubectl label node a disk=ssd"}},
		{name: "cordon alone", nodes: []corev1.Node{node("a", "1", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, pod: pod("p", "", "1"), want: []string{"-> kubectl uncordon a"}},
		{name: "node affinity", nodes: []corev1.Node{node("a", "1")}, pod: pod("p", "", "1", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cpu", Operator: corev1.NodeSelectorOpIn, Values: []string{"arm", "x"}}, {Key: "fast", Operator: corev1.NodeSelectorOpExists}}},
			}}}}
		}), want: []string{"asks for cpu In arm,x and fast Exists"}},
		{name: "port", nodes: []corev1.Node{node("a", "1")}, pods: []corev1.Pod{pod("x", "a", "0", port)}, pod: pod("p", "", "0", port), want: []string{"NodePorts: host port 80/TCP is taken by pod ns/x"}},
		{name: "apart", nodes: []corev1.Node{node("a", "1")}, pods: []corev1.Pod{pod("x", "a", "0")}, pod: pod("p", "", "0", apart), want: []string{"InterPodAffinity: the pod must be apart from app=web by zone: pod ns/x is there"}},
		{name: "theirs", nodes: []corev1.Node{node("a", "1")}, pods: []corev1.Pod{pod("x", "a", "0", apart)}, pod: pod("p", "", "0"), want: []string{"pod ns/x must be apart from app=web by zone, which is this pod"}},
		{name: "near", nodes: []corev1.Node{node("a", "1")}, pod: pod("p", "", "0", near), want: []string{"no pod is there that the pod must be near: app=web by zone"}},
		{name: "spread", nodes: []corev1.Node{node("a", "2"), node("b", "1")}, pods: []corev1.Pod{pod("x", "a", "1"), pod("y", "b", "1", func(p *corev1.Pod) { p.Labels = nil })}, pod: pod("p", "", "1", spread),
			want: []string{"a: PodTopologySpread: zone=z-a would have 2 such pods where the least is 0 (maxSkew 1)", "-> make room in zone=z-b, which has 0", "b: NodeResourcesFit"}},
		{name: "preemption", nodes: []corev1.Node{node("a", "4")}, pods: []corev1.Pod{pod("x", "a", "2", prio(1)), pod("y", "a", "1", prio(2)), pod("z", "a", "1", prio(9))}, pod: pod("p", "", "2", prio(5)),
			want: []string{"a: evict ns/x\n", "-> preemption would evict ns/x from node a"}},
		{name: "no preemption", nodes: []corev1.Node{node("a", "4")}, pods: []corev1.Pod{pod("x", "a", "4", prio(1))}, pod: pod("p", "", "2", prio(5), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }), not: "evict"},
		{name: "gates", nodes: []corev1.Node{node("a", "4")}, pod: pod("p", "", "2", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
			want: []string{"*: SchedulingGates: the pod has scheduling gates: g", "-> whoever has set the gates must take them off"}, not: "wait for the scheduler"},
		{name: "no claim", nodes: []corev1.Node{node("a", "4")}, pod: pod("p", "", "2", claim), want: []string{`*: VolumeBinding: persistentvolumeclaim "c" not found`}},
		{name: "scheduler silent", nodes: []corev1.Node{node("a", "1")}, pod: pod("p", "", "2"), want: []string{`-> no scheduler has written on the pod: see whether one named "s" runs`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := flat(Explain(&Cluster{Nodes: tt.nodes, Pods: tt.pods, Namespaces: map[string]labels.Set{}}, &tt.pod))
			for _, w := range tt.want {
				if !strings.Contains(got, w) {
					t.Errorf("lacks %q:\n%s", w, got)
				}
			}
			if tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("has %q:\n%s", tt.not, got)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	on, ended, going := pod("p", "a", "1"), pod("p", "", "1"), pod("p", "", "1")
	ended.Status.Phase = corev1.PodFailed
	going.DeletionTimestamp = &metav1.Time{}
	for want, p := range map[string]corev1.Pod{"it is on node a (phase Pending)": on, "it has ended (phase Failed)": ended, "it is being deleted": going} {
		if err := Check(&p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	waits := pod("p", "", "1")
	if err := Check(&waits); err != nil {
		t.Error(err)
	}
}

// TestFetch reads what Explain needs, and leaves out what has no node.
func TestFetch(t *testing.T) {
	n, on, waits := node("a", "1"), pod("x", "a", "1"), pod("p", "", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}, {Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	})
	client := fake.NewClientset(&n, &on, &waits, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}},
		}}}}}})
	c, err := Fetch(t.Context(), client, &waits)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Nodes) != 1 || len(c.Pods) != 1 || c.Namespaces["ns"]["team"] != "a" {
		t.Errorf("got %+v", c)
	}
	got := flat(Explain(c, &waits))
	for _, want := range []string{`claim "p-e" not found`, `a: VolumeBinding: volume v of claim c cannot be used from this node`} {
		if !strings.Contains(strings.ReplaceAll(got, "persistentvolumeclaim", "claim"), want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if _, ok := c.Claims["p-e"]; !ok || !slices.Contains(claimNames(&waits), "p-e") {
		t.Error("the claim of an ephemeral volume was not looked for")
	}
}
