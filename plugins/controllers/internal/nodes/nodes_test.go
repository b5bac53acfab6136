package nodes

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestPool(t *testing.T) {
	for _, tt := range []struct {
		cidr        string
		bits        int
		first, last string
		size        int
	}{
		{"10.244.0.0/16", 24, "10.244.0.0/24", "10.244.255.0/24", 256},
		{"10.0.0.0/22", 23, "10.0.0.0/23", "10.0.2.0/23", 2},
		{"fd00:1::/48", 64, "fd00:1::/64", "fd00:1:0:ffff::/64", 65536},
	} {
		t.Run(tt.cidr, func(t *testing.T) {
			p, err := newPool(netip.MustParsePrefix(tt.cidr), tt.bits)
			if err != nil {
				t.Fatal(err)
			}
			if first, last := p.part(0).String(), p.part(p.size-1).String(); first != tt.first || last != tt.last || int(p.size) != tt.size {
				t.Errorf("got %s to %s, %d parts; want %s to %s, %d", first, last, p.size, tt.first, tt.last, tt.size)
			}
			if got := p.index(p.part(p.size - 1).Addr()); got != p.size-1 {
				t.Errorf("index of the last part is %d, want %d", got, p.size-1)
			}
		})
	}
	if _, err := newPool(netip.MustParsePrefix("10.0.0.0/16"), 8); err == nil {
		t.Error("parts larger than the whole are accepted")
	}
}

// TestPoolGivesOnce: what is taken is not given again until it is released, and
// a node that asks twice gets the same.
func TestPoolGivesOnce(t *testing.T) {
	p, _ := newPool(netip.MustParsePrefix("10.0.0.0/22"), 24)
	p.occupy(netip.MustParsePrefix("10.0.1.0/24"), "there")
	seen := map[netip.Prefix]bool{}
	for i := range 3 {
		name := fmt.Sprint("n", i)
		a, ok := p.take(name)
		if b, _ := p.take(name); !ok || a != b || seen[a] || a.Addr() == netip.MustParseAddr("10.0.1.0") {
			t.Fatalf("%s got %s, then %s, of %v", name, a, b, seen)
		}
		seen[a] = true
	}
	if _, ok := p.take("late"); ok {
		t.Fatal("a part was given from a full pool")
	}
	p.release("there")
	if a, ok := p.take("late"); !ok || a.String() != "10.0.1.0/24" {
		t.Errorf("got %s, %t after release", a, ok)
	}
}

func node(conditions ...corev1.NodeCondition) *corev1.Node {
	return &corev1.Node{Status: corev1.NodeStatus{Conditions: conditions}}
}

func cond(t corev1.NodeConditionType, s corev1.ConditionStatus) corev1.NodeCondition {
	return corev1.NodeCondition{Type: t, Status: s}
}

func TestDesiredTaints(t *testing.T) {
	foreign := corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoExecute}
	for _, tt := range []struct {
		name string
		node *corev1.Node
		has  []corev1.Taint
		want []string
	}{
		{"ready loses the first taint", node(cond(corev1.NodeReady, corev1.ConditionTrue)), []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, nil},
		{"others' stay", node(cond(corev1.NodeReady, corev1.ConditionTrue)), []corev1.Taint{foreign}, []string{"gpu:NoExecute"}},
		{"not ready", node(cond(corev1.NodeReady, corev1.ConditionFalse)), nil, []string{"node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"}},
		{"silent", node(cond(corev1.NodeReady, corev1.ConditionUnknown)), []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}},
			[]string{"node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"}},
		{"disk full", node(cond(corev1.NodeReady, corev1.ConditionTrue), cond(corev1.NodeDiskPressure, corev1.ConditionTrue)), nil, []string{"node.kubernetes.io/disk-pressure:NoSchedule"}},
		{"never reported", node(), nil, []string{"node.kubernetes.io/not-ready:NoSchedule"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.node.Spec.Taints = tt.has
			var got []string
			for _, x := range desiredTaints(tt.node, noExecuteFor(tt.node), metav1.Now()) {
				got = append(got, x.Key+":"+string(x.Effect))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestEvictionDeadline(t *testing.T) {
	now := time.Now()
	added := metav1.NewTime(now.Add(-time.Minute))
	taint := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	tolerate := func(seconds *int64) []corev1.Toleration {
		return []corev1.Toleration{{Key: taint.Key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}}
	}
	for _, tt := range []struct {
		name        string
		tolerations []corev1.Toleration
		created     time.Duration
		evict       bool
		in          time.Duration
	}{
		{"not tolerated", nil, time.Hour, true, -time.Minute},
		{"for ever", tolerate(nil), time.Hour, false, 0},
		{"for a time", tolerate(ptr.To[int64](300)), time.Hour, true, 4 * time.Minute},
		{"negative is at once", tolerate(ptr.To[int64](-5)), time.Hour, true, -time.Minute},
		{"came after the taint", tolerate(ptr.To[int64](300)), 10 * time.Second, true, 290 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := &Eviction{noted: map[types.UID]time.Time{}}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-tt.created))}, Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			at, evict := e.deadline(pod, []corev1.Taint{taint}, now)
			if evict != tt.evict || (evict && at.Sub(now).Round(time.Second) != tt.in) {
				t.Errorf("got %t in %s, want %t in %s", evict, at.Sub(now), tt.evict, tt.in)
			}
		})
	}
}
