package scheduler

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

type podOption func(*corev1.Pod)

func newPod(name string, opts ...podOption) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{SchedulerName: "default-scheduler", Containers: []corev1.Container{{Name: "c", Image: "app"}}},
	}
	for _, o := range opts {
		o(p)
	}
	return p
}

func requests(cpu, memory string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
}

func initRequests(cpu string, sidecar bool) podOption {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}
		if sidecar {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func labelled(k, v string) podOption { return func(p *corev1.Pod) { p.Labels[k] = v } }
func port(n int32) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: n, ContainerPort: n}}
	}
}
func selecting(k, v string) podOption {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
}
func tolerating(key string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}
func term(app, key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: key}
}
func near(app, key string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(app, key)}}}
	}
}
func notNear(app, key string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(app, key)}}}
	}
}
func spreading(app, key string, skew int32) podOption {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		}}
	}
}
func onNode(name string) podOption { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
func priority(n int32) podOption   { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
func owned(uid string) podOption {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: uid, UID: types.UID(uid), Controller: new(true)}}
	}
}

type nodeOption func(*corev1.Node)

func newNode(name, cpu, memory string, opts ...nodeOption) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

func nodeLabel(k, v string) nodeOption { return func(n *corev1.Node) { n.Labels[k] = v } }
func tainted(key string, e corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: e}) }
}
func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }
func maxPods(s string) nodeOption {
	return func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse(s) }
}

var usual = func() *profile {
	pr := defaultProfile("default-scheduler", 0)
	pr.settle()
	return pr
}()

func decideOn(c *nodeCache, p *corev1.Pod) decision {
	return c.decide(context.Background(), newPodInfo(p), usual)
}

// TestDecide is the table of filters: where a pod may go, and upstream's words
// for why it may not.
func TestDecide(t *testing.T) {
	const noSchedule = corev1.TaintEffectNoSchedule
	for _, tt := range []struct {
		name    string
		nodes   []*corev1.Node
		placed  []*corev1.Pod
		pod     *corev1.Pod
		want    string
		message string
	}{
		{name: "no nodes", pod: newPod("p"), message: "no nodes available to schedule pods"},
		{name: "room", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", requests("1", "1Gi")), want: "a"},
		{name: "no cpu left", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", requests("500m", "1Mi"), onNode("a"))},
			pod: newPod("p", requests("600m", "1Mi")), message: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "several reasons", nodes: []*corev1.Node{newNode("a", "1", "1Gi"), newNode("b", "4", "1Gi"), newNode("c", "4", "4Gi", cordoned)},
			pod: newPod("p", requests("2", "2Gi")), message: "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 2 Insufficient memory."},
		{name: "largest init container counts", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", requests("500m", "1Mi"), initRequests("2", false)),
			message: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "sidecars add up", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", requests("600m", "1Mi"), initRequests("500m", true)),
			message: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "overhead counts", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", requests("900m", "1Mi"), func(p *corev1.Pod) {
			p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}
		}), message: "0/1 nodes are available: 1 Insufficient cpu."},
		{name: "too many pods", nodes: []*corev1.Node{newNode("a", "1", "1Gi", maxPods("1"))}, placed: []*corev1.Pod{newPod("x", onNode("a"))},
			pod: newPod("p"), message: "0/1 nodes are available: 1 Too many pods."},
		{name: "extended resource", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}), message: "0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{name: "taint", nodes: []*corev1.Node{newNode("a", "1", "1Gi", tainted("gpu", noSchedule))}, pod: newPod("p"),
			message: "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: }."},
		{name: "taint tolerated", nodes: []*corev1.Node{newNode("a", "1", "1Gi", tainted("gpu", noSchedule))}, pod: newPod("p", tolerating("gpu")), want: "a"},
		{name: "PreferNoSchedule is avoided", nodes: []*corev1.Node{newNode("a", "1", "1Gi", tainted("x", corev1.TaintEffectPreferNoSchedule)), newNode("b", "1", "1Gi")},
			pod: newPod("p"), want: "b"},
		{name: "node selector", nodes: []*corev1.Node{newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi", nodeLabel("disk", "ssd"))}, pod: newPod("p", selecting("disk", "ssd")), want: "b"},
		{name: "node selector unmet", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", selecting("disk", "ssd")),
			message: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{name: "host port", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", port(80), onNode("a"))}, pod: newPod("p", port(80)),
			message: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{name: "other host port", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", port(80), onNode("a"))}, pod: newPod("p", port(81)), want: "a"},
		{name: "affinity", nodes: []*corev1.Node{newNode("a", "1", "1Gi"), newNode("b", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", labelled("app", "db"), onNode("b"))},
			pod: newPod("p", near("db", corev1.LabelHostname)), want: "b"},
		{name: "affinity unmet", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", near("db", corev1.LabelHostname)),
			message: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."},
		{name: "affinity with itself", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, pod: newPod("p", labelled("app", "db"), near("db", corev1.LabelHostname)), want: "a"},
		{name: "anti-affinity", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", labelled("app", "db"), onNode("a"))},
			pod: newPod("p", notNear("db", corev1.LabelHostname)), message: "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."},
		{name: "anti-affinity of those there", nodes: []*corev1.Node{newNode("a", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", notNear("web", corev1.LabelHostname), onNode("a"))},
			pod: newPod("p", labelled("app", "web")), message: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."},
		{name: "spread", nodes: []*corev1.Node{newNode("a", "8", "8Gi"), newNode("b", "1", "1Gi")}, placed: []*corev1.Pod{newPod("x", labelled("app", "w"), onNode("a"))},
			pod: newPod("p", labelled("app", "w"), spreading("w", corev1.LabelHostname, 1)), want: "b"},
		{name: "spread unmet", nodes: []*corev1.Node{newNode("a", "8", "8Gi"), newNode("b", "1", "1Gi", cordoned)}, placed: []*corev1.Pod{newPod("x", labelled("app", "w"), onNode("a"))},
			pod:     newPod("p", labelled("app", "w"), spreading("w", corev1.LabelHostname, 1)),
			message: "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable."},
		{name: "replicas spread by owner", nodes: []*corev1.Node{newNode("a", "8", "8Gi"), newNode("b", "8", "8Gi")},
			placed: []*corev1.Pod{newPod("x", owned("rs"), onNode("a")), newPod("y", onNode("b"))}, pod: newPod("p", owned("rs")), want: "b"},
		{name: "emptier node", nodes: []*corev1.Node{newNode("a", "2", "2Gi"), newNode("b", "2", "2Gi")}, placed: []*corev1.Pod{newPod("x", requests("1", "1Gi"), onNode("a"))},
			pod: newPod("p", requests("100m", "100Mi")), want: "b"},
		{name: "image is there", nodes: []*corev1.Node{newNode("a", "2", "2Gi"), newNode("b", "2", "2Gi", func(n *corev1.Node) {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"app:latest"}, SizeBytes: 900 << 20}}
		})}, pod: newPod("p"), want: "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache()
			for _, n := range tt.nodes {
				c.setNode(n)
			}
			for _, p := range tt.placed {
				c.setPod(newPodInfo(p))
			}
			d := decideOn(c, tt.pod)
			if before, _, _ := strings.Cut(d.message, " preemption: "); d.node != tt.want || before != tt.message {
				t.Errorf("got node %q, message %q; want %q, %q", d.node, d.message, tt.want, tt.message)
			}
			if tt.want == "" && d.blame == 0 {
				t.Error("no filter is blamed, so no event would revive the pod")
			}
		})
	}
}

// TestCacheAddsUp puts pods on and off a node in all the ways there are, and
// sees that nothing is left.
func TestCacheAddsUp(t *testing.T) {
	c := newCache()
	c.setNode(newNode("a", "4", "4Gi"))
	p := newPod("p", requests("1", "1Gi"), port(80), owned("rs"), notNear("x", "zone"))
	if d := decideOn(c, p); d.node != "a" {
		t.Fatalf("not placed: %s", d.message)
	}
	bound := p.DeepCopy()
	bound.Spec.NodeName = "a"
	c.setPod(newPodInfo(bound)) // confirms
	c.forget(p.UID)             // too late: confirmed
	if got := c.nodes["a"].requested.milliCPU; got != 1000 {
		t.Errorf("requested %dm CPU after confirmation, want 1000m", got)
	}
	c.removePod(p.UID)
	c.removePod(p.UID)
	n := c.nodes["a"]
	if n.requested.milliCPU != 0 || n.requested.memory != 0 || len(n.ports)+len(n.pods) != 0 || c.groups[string(groupAnti)+newPodInfo(p).requiredAnti[0].id].total != 0 {
		t.Errorf("something is left on the node: %+v", n)
	}
	c.removeNode("a")
	if len(c.nodes)+len(c.list) != 0 {
		t.Errorf("node is left: %v", c.nodes)
	}
}

func TestQueue(t *testing.T) {
	now := time.Unix(1000, 0)
	q := newQueue(time.Second, 10*time.Second)
	q.now = func() time.Time { return now }
	q.set(newPod("low"))
	now = now.Add(time.Second)
	q.set(newPod("high", priority(10)))
	q.set(newPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }))
	ctx, cancel := context.WithCancel(t.Context())
	x, y := q.pop(ctx), q.pop(ctx)
	if x.info.pod.Name != "high" || y.info.pod.Name != "low" {
		t.Fatalf("got %s before %s, want the higher priority first", x.info.pod.Name, y.info.pod.Name)
	}
	q.retry(x, filterNodeResourcesFit)
	q.event(filterNodeAffinity) // does not concern it
	if _, backoff, parked, gates := q.lengths(); backoff != 0 || parked != 1 || gates != 1 {
		t.Fatalf("got %d in back-off, %d unschedulable, %d gated; want 0, 1, 1", backoff, parked, gates)
	}
	q.event(filterNodeResourcesFit) // does, but the back-off is not over
	if wait := q.flush(); wait != time.Second {
		t.Fatalf("wait %s, want 1s", wait)
	}
	// An event during the flight is not lost.
	q.event(filterInterPodAffinity)
	q.retry(y, filterInterPodAffinity)
	if _, backoff, parked, _ := q.lengths(); backoff != 2 || parked != 0 {
		t.Fatalf("got %d in back-off, %d unschedulable; want 2, 0", backoff, parked)
	}
	now = now.Add(time.Second)
	q.flush()
	x = q.pop(ctx)
	q.remove(x.info.pod.UID)
	q.retry(x, 0) // deleted in flight: does not come back
	y = q.pop(ctx)
	q.done(y)
	q.set(newPod("gated")) // the gate is lifted
	if z := q.pop(ctx); z.info.pod.Name != "gated" {
		t.Fatalf("got %s, want the pod without its gate", z.info.pod.Name)
	}
	cancel()
	if q.pop(ctx) != nil {
		t.Error("pop returned a pod after the end")
	}
}

func TestBackoffDoubles(t *testing.T) {
	q := newQueue(time.Second, 10*time.Second)
	var got []string
	for n := 1; n <= 6; n++ {
		got = append(got, q.delay(n).String())
	}
	if s := strings.Join(got, " "); s != "1s 2s 4s 8s 10s 10s" {
		t.Errorf("delays are %s", s)
	}
}
