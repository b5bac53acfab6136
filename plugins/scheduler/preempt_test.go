package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func began(minutes int) podOption {
	return func(p *corev1.Pod) {
		p.Status.StartTime = new(metav1.NewTime(time.Unix(0, 0).Add(time.Duration(minutes) * time.Minute)))
	}
}

func never(p *corev1.Pod) { p.Spec.PreemptionPolicy = new(corev1.PreemptNever) }
func nominatedTo(node string) podOption {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}
func sentAway(p *corev1.Pod) {
	p.DeletionTimestamp = new(metav1.Now())
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
}

func protecting(app string, allowed int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: app},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
}

// TestPreempt is the table of whom preemption picks, and upstream's words for why
// it picks nobody.
func TestPreempt(t *testing.T) {
	two := []*corev1.Node{newNode("a", "2", "8Gi"), newNode("b", "2", "8Gi")}
	big := newPod("p", requests("2", "1Gi"), priority(100))
	for _, tt := range []struct {
		name    string
		nodes   []*corev1.Node
		placed  []*corev1.Pod
		pending []*corev1.Pod
		budgets []*policyv1.PodDisruptionBudget
		pod     *corev1.Pod
		node    string
		victims string
		message string
	}{
		{name: "the lower one goes", nodes: two[:1], placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), onNode("a"))}, pod: big, node: "a", victims: "x"},
		{name: "no more go than must", nodes: two[:1], pod: newPod("p", requests("1", "1Gi"), priority(100)), node: "a", victims: "x",
			placed: []*corev1.Pod{newPod("x", requests("1", "1Gi"), onNode("a")), newPod("y", requests("1", "1Gi"), priority(5), onNode("a"))}},
		{name: "the youngest goes first", nodes: two[:1], pod: newPod("p", requests("1", "1Gi"), priority(100)), node: "a", victims: "y",
			placed: []*corev1.Pod{newPod("x", requests("1", "1Gi"), began(1), onNode("a")), newPod("y", requests("1", "1Gi"), began(2), onNode("a"))}},
		{name: "equals stay", nodes: two[:1], placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), priority(100), onNode("a"))}, pod: big,
			message: "0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "too large for any node", nodes: two, placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), onNode("a"))}, pod: newPod("p", requests("3", "1Gi"), priority(100)),
			message: "0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{name: "unresolvable and none", nodes: []*corev1.Node{newNode("a", "2", "8Gi", cordoned), two[1]}, placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), priority(100), onNode("b"))}, pod: big,
			message: "0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."},
		{name: "not enough even so", nodes: two[:1], pod: big, message: "0/1 nodes are available: 1 Insufficient cpu.",
			placed: []*corev1.Pod{newPod("x", requests("1", "1Gi"), onNode("a")), newPod("y", requests("1", "1Gi"), priority(100), onNode("a"))}},
		{name: "policy Never", nodes: two[:1], placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), onNode("a"))}, pod: newPod("p", requests("2", "1Gi"), priority(100), never),
			message: "not eligible due to preemptionPolicy=Never."},
		{name: "lower priority of victims wins", nodes: two, pod: big, node: "b", victims: "y",
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), priority(5), onNode("a")), newPod("y", requests("2", "1Gi"), priority(4), onNode("b"))}},
		{name: "lower sum wins", nodes: two, pod: big, node: "a", victims: "x,y", placed: []*corev1.Pod{
			newPod("x", requests("1", "1Gi"), priority(5), onNode("a")), newPod("y", requests("1", "1Gi"), priority(1), onNode("a")),
			newPod("z", requests("1", "1Gi"), priority(5), onNode("b")), newPod("w", requests("1", "1Gi"), priority(2), onNode("b"))}},
		{name: "fewer victims win", nodes: two, pod: big, node: "b", victims: "z", placed: []*corev1.Pod{
			newPod("x", requests("1", "1Gi"), priority(5), onNode("a")), newPod("y", requests("1", "1Gi"), priority(5), onNode("a")), newPod("z", requests("2", "1Gi"), priority(5), onNode("b"))}},
		{name: "the later start wins", nodes: two, pod: big, node: "b", victims: "y",
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), began(1), onNode("a")), newPod("y", requests("2", "1Gi"), began(2), onNode("b"))}},
		{name: "a budget is spared", nodes: two, pod: big, node: "b", victims: "y", budgets: []*policyv1.PodDisruptionBudget{protecting("web", 0)},
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), labelled("app", "web"), onNode("a")), newPod("y", requests("2", "1Gi"), priority(50), onNode("b"))}},
		{name: "a budget is broken if nothing else helps", nodes: two[:1], pod: big, node: "a", victims: "x", budgets: []*policyv1.PodDisruptionBudget{protecting("web", 0)},
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), labelled("app", "web"), onNode("a"))}},
		{name: "a budget that allows it", nodes: two, pod: big, node: "a", victims: "x", budgets: []*policyv1.PodDisruptionBudget{protecting("web", 1)},
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), labelled("app", "web"), onNode("a")), newPod("y", requests("2", "1Gi"), priority(50), onNode("b"))}},
		{name: "protected ones stay on the node", nodes: two[:1], pod: newPod("p", requests("1", "1Gi"), priority(100)), node: "a", victims: "y", budgets: []*policyv1.PodDisruptionBudget{protecting("web", 0)},
			placed: []*corev1.Pod{newPod("x", requests("1", "1Gi"), labelled("app", "web"), onNode("a")), newPod("y", requests("1", "1Gi"), priority(50), onNode("a"))}},
		{name: "anti-affinity is cleared", nodes: two[:1], pod: newPod("p", priority(100), notNear("db", corev1.LabelHostname)), node: "a", victims: "x",
			placed: []*corev1.Pod{newPod("x", labelled("app", "db"), onNode("a")), newPod("y", onNode("a"))}},
		{name: "others' anti-affinity is cleared", nodes: two[:1], pod: newPod("p", labelled("app", "web"), priority(100)), node: "a", victims: "x",
			placed: []*corev1.Pod{newPod("x", notNear("web", corev1.LabelHostname), onNode("a")), newPod("y", onNode("a"))}},
		{name: "spread is mended", nodes: []*corev1.Node{two[0], newNode("b", "1", "1Gi", cordoned)}, pod: newPod("p", labelled("app", "w"), priority(100), spreading("w", corev1.LabelHostname, 1)), node: "a", victims: "x",
			placed: []*corev1.Pod{newPod("x", labelled("app", "w"), onNode("a")), newPod("y", onNode("a"))}},
		{name: "a port is freed", nodes: two[:1], pod: newPod("p", port(80), priority(100)), node: "a", victims: "x", placed: []*corev1.Pod{newPod("x", port(80), onNode("a")), newPod("y", port(81), onNode("a"))}},
		{name: "victims are on their way", nodes: two, pod: newPod("p", requests("2", "1Gi"), priority(100), nominatedTo("a")), message: "not eligible due to a terminating pod on the nominated node.",
			placed: []*corev1.Pod{newPod("x", requests("2", "1Gi"), sentAway, onNode("a")), newPod("y", requests("2", "1Gi"), onNode("b"))}},
		{name: "room for a nominated pod is not given away", nodes: two[:1], pod: newPod("p", requests("2", "1Gi"), priority(100)),
			pending: []*corev1.Pod{newPod("n", requests("2", "1Gi"), priority(100), nominatedTo("a"))},
			message: "0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		{name: "nor against its anti-affinity", nodes: two[:1], pod: newPod("p", labelled("app", "web"), priority(100)),
			pending: []*corev1.Pod{newPod("n", notNear("web", corev1.LabelHostname), priority(100), nominatedTo("a"))},
			message: "0/1 nodes are available: 1 No preemption victims found for incoming pod."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCache()
			c.listBudgets = func() []*policyv1.PodDisruptionBudget { return tt.budgets }
			for _, n := range tt.nodes {
				c.setNode(n)
			}
			for _, p := range tt.placed {
				c.setPod(newPodInfo(p))
			}
			for _, p := range append(tt.pending, tt.pod) {
				c.seeNomination(nil, newPodInfo(p))
			}
			d := decideOn(c, tt.pod)
			if d.node != "" || d.preempt == nil {
				t.Fatalf("got node %q, preemption %v; want none, some", d.node, d.preempt)
			}
			if d.preempt.node != tt.node || namesOf(d.preempt.victims) != tt.victims || d.preempt.message != tt.message {
				t.Errorf("got node %q, victims %q, message %q; want %q, %q, %q", d.preempt.node, namesOf(d.preempt.victims), d.preempt.message, tt.node, tt.victims, tt.message)
			}
			if tt.message != "" && !strings.HasSuffix(d.message, " preemption: "+tt.message) {
				t.Errorf("the pod's message is %q", d.message)
			}
			if tt.node == "" {
				return
			}
			if got := c.nominated[tt.pod.UID]; got != tt.node {
				t.Errorf("nominated to %q, want %q", got, tt.node)
			}
			for _, v := range d.preempt.victims {
				c.removePod(v.pod.UID)
			}
			if d := decideOn(c, tt.pod); d.node != tt.node {
				t.Errorf("without its victims it goes to %q (%s), want %q", d.node, d.message, tt.node)
			}
			if len(c.nominated) > 0 {
				t.Errorf("nominations are left: %v", c.nominated)
			}
		})
	}
}

func namesOf(pods []*podInfo) string {
	var names []string
	for _, p := range pods {
		names = append(names, p.pod.Name)
	}
	return strings.Join(names, ",")
}

// TestNominated: a nomination holds room against equals and less important pods,
// not against more important ones, who take it away.
func TestNominated(t *testing.T) {
	c := newCache()
	c.setNode(newNode("a", "2", "8Gi"))
	n := newPodInfo(newPod("n", requests("2", "1Gi"), priority(10), nominatedTo("a")))
	c.seeNomination(nil, n)
	if d := decideOn(c, newPod("low", requests("1", "1Gi"), priority(9))); d.node != "" {
		t.Error("the room was given to a less important pod")
	}
	c.setPod(newPodInfo(newPod("x", requests("1", "1Gi"), onNode("a"))))
	d := decideOn(c, newPod("high", requests("2", "1Gi"), priority(11)))
	if d.preempt == nil || d.preempt.node != "a" || namesOf(d.preempt.lower) != "n" || c.nominated["n"] != "" {
		t.Errorf("got %+v, and nominations %v; want n's taken back", d.preempt, c.nominated)
	}
	// The API shows the pod without it again.
	c.seeNomination(nil, n)
	c.seeNomination(n.pod, newPodInfo(newPod("n", priority(10))))
	if c.nominated["n"] != "" {
		t.Error("a nomination that was taken back in the API still counts")
	}
}

// state is all that an attempt must leave as it was.
func state(c *nodeCache) string {
	var out []string
	for _, n := range c.list {
		out = append(out, fmt.Sprint(n.name, n.requested, n.scored, len(n.pods), slices.Sorted(maps.Keys(n.pods)), n.ports))
	}
	for name, t := range c.counters {
		out = append(out, fmt.Sprint(name, t.total, t.perNode))
	}
	for name, g := range c.groups {
		if g.total > 0 {
			out = append(out, fmt.Sprint(name, g.total, g.by(g.key)))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestPreemptRandomly: on random clusters, the search changes nothing; without the
// victims the pod fits, and with any of them it would not.
func TestPreemptRandomly(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	found := 0
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 9))
		c := newCache()
		c.namespaces = func(name string) labels.Set { return labels.Set{"name": name} }
		for i := range 3 + r.IntN(6) {
			c.setNode(randomNode(r, i))
		}
		for i := range 80 {
			pod := randomPod(r, i)
			priority(int32(r.IntN(4)))(pod)
			p := newPodInfo(pod)
			a := newAttempt(c, p, usual, nil)
			feasible, why := c.search(a)
			if len(feasible) > 0 {
				c.assumeLocked(p, feasible[r.IntN(len(feasible))].name)
				continue
			}
			before := state(c)
			how := c.preempt(a, why.helpable)
			// Counters may be new; they are compared from here on.
			if after := state(c); after != before {
				t.Fatalf("seed %d, pod %d: the search has changed\n%s\nto\n%s", seed, i, before, after)
			}
			if how.node == "" {
				continue
			}
			found++
			checkVictims(t, c, p, how)
		}
	}
	if found < rounds/2 {
		t.Errorf("only %d preemptions in %d rounds", found, rounds)
	}
}

func checkVictims(t *testing.T, c *nodeCache, p *podInfo, how *preemption) {
	t.Helper()
	var uids []types.UID
	for _, v := range how.victims {
		if v.priority >= p.priority {
			t.Fatalf("victim %s has priority %d, not below %d", v.pod.Name, v.priority, p.priority)
		}
		uids = append(uids, v.pod.UID)
		c.removeLocked(v.pod.UID)
	}
	n := c.nodes[how.node]
	if no := newAttempt(c, p, usual, nil).fits(n); no != nil {
		t.Fatalf("pod %s does not fit on %s without %v: %v", p.pod.Name, how.node, uids, no)
	}
	for _, v := range how.victims {
		c.addLocked(v, how.node, false)
	}
	if no := newAttempt(c, p, usual, nil).fits(n); no == nil {
		t.Fatalf("pod %s fits on %s with all its victims there", p.pod.Name, how.node)
	}
}
