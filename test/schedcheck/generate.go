package schedcheck

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels, taints and the like are few, so that rules meet each other often.
var (
	zones      = []string{"east", "west", "north"}
	apps       = []string{"web", "db", "cache"}
	disks      = []string{"ssd", "hdd"}
	namespaces = []string{"red", "blue"}
)

const (
	diskLabel = "example.com/disk"
	taintKey  = "example.com/taken"
	gpu       = corev1.ResourceName("example.com/gpu")
)

// Generator makes random clusters, the same for the same seed.
type Generator struct{ *rand.Rand }

// NewGenerator begins with a seed.
func NewGenerator(seed uint64) Generator { return Generator{rand.New(rand.NewPCG(seed, 5))} }

// Namespaces are the labels of the namespaces of all pods.
func (g Generator) Namespaces() map[string]map[string]string {
	return map[string]map[string]string{"red": {"team": "a"}, "blue": {"team": "b"}}
}

func (g Generator) one(of []string) string { return of[g.IntN(len(of))] }

func (g Generator) chance(percent int) bool { return g.IntN(100) < percent }

// Node makes a node. Few have room for more than a handful of pods.
func (g Generator) Node(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, diskLabel: g.one(disks)}}}
	if g.chance(85) {
		n.Labels[corev1.LabelTopologyZone] = g.one(zones)
	}
	if g.chance(20) {
		n.Spec.Taints = []corev1.Taint{{Key: taintKey, Value: g.one(disks), Effect: []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}[g.IntN(2)]}}
	}
	n.Spec.Unschedulable = g.chance(8)
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(int64(500+500*g.IntN(7)), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(int64(1+g.IntN(6))<<30, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(int64(3+g.IntN(12)), resource.DecimalSI),
	}
	if g.chance(25) {
		n.Status.Allocatable[gpu] = *resource.NewQuantity(int64(1+g.IntN(3)), resource.DecimalSI)
	}
	n.Status.Capacity = n.Status.Allocatable
	return n
}

// Pod makes a pod. Half of them have some rule.
func (g Generator) Pod(name string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.one(namespaces), Name: name, Labels: map[string]string{"app": g.one(apps)}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(int64(50+50*g.IntN(12)), resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(int64(64+64*g.IntN(12))<<20, resource.BinarySI),
		}}}}},
	}
	c := &p.Spec.Containers[0]
	if g.chance(10) {
		c.Resources.Requests[gpu] = resource.MustParse("1")
		c.Resources.Limits = corev1.ResourceList{gpu: resource.MustParse("1")}
	}
	if g.chance(12) {
		port := int32(8000 + g.IntN(3))
		c.Ports = []corev1.ContainerPort{{HostPort: port, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	}
	g.initContainers(p)
	g.places(p)
	if g.chance(15) {
		p.Spec.Affinity = g.company(p)
	}
	for range g.IntN(3) / 2 * (1 + g.IntN(2)) {
		g.spread(p)
	}
	return p
}

func (g Generator) initContainers(p *corev1.Pod) {
	for i := range g.IntN(4) / 2 {
		c := corev1.Container{Name: fmt.Sprint("i", i), Image: "example.com/i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(int64(100*g.IntN(8)), resource.DecimalSI),
		}}}
		if g.chance(50) {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func (g Generator) places(p *corev1.Pod) {
	if g.chance(15) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: taintKey, Operator: corev1.TolerationOpExists})
	} else if g.chance(10) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: taintKey, Value: g.one(disks)})
	}
	if g.chance(10) {
		p.Spec.NodeSelector = map[string]string{diskLabel: g.one(disks)}
	}
}

func (g Generator) company(p *corev1.Pod) *corev1.Affinity {
	if g.chance(15) {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpNotIn, Values: []string{g.one(zones)}},
			}}},
		}}}
	}
	t := corev1.PodAffinityTerm{
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": g.one(apps)}},
		TopologyKey:   []string{corev1.LabelHostname, corev1.LabelTopologyZone}[g.IntN(2)],
	}
	switch g.IntN(4) {
	case 0:
		t.NamespaceSelector = &metav1.LabelSelector{}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": []string{"a", "b"}[g.IntN(2)]}}
	case 2:
		t.Namespaces = []string{g.one(namespaces)}
	}
	terms := []corev1.PodAffinityTerm{t}
	if g.chance(50) {
		return &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
	}
	return &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
}

func (g Generator) spread(p *corev1.Pod) {
	c := corev1.TopologySpreadConstraint{
		MaxSkew: int32(1 + g.IntN(2)), TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
	}
	if len(p.Spec.TopologySpreadConstraints) == 0 && g.chance(60) {
		c.TopologyKey = corev1.LabelTopologyZone
	} else if len(p.Spec.TopologySpreadConstraints) > 0 && p.Spec.TopologySpreadConstraints[0].TopologyKey == c.TopologyKey {
		return
	}
	policies := []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}
	if g.chance(30) {
		c.NodeTaintsPolicy = &policies[g.IntN(2)]
	}
	if g.chance(30) {
		c.NodeAffinityPolicy = &policies[g.IntN(2)]
	}
	if g.chance(20) {
		n := int32(1 + g.IntN(4))
		c.MinDomains = &n
	}
	p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
}
