package daemonset

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// TestBoard: sums that are kept by differences are those of a board made anew, and no plan
// takes more pods than it may, whatever happens; left alone, the set becomes what it is
// to be.
func TestBoard(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 0))
		strategy := []string{"unavailable 1", "unavailable 2", "unavailable 40%", "surge 1", "surge 2", "on delete"}[r.IntN(6)]
		w := &world{t: t, seed: seed, r: r, set: testDaemon(strategy), nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}, hash: "h0"}
		w.board = newBoard(newRules(w.set, w.hash))
		for i := range 6 {
			w.nodes[nodeName(i)] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
			w.judge(nodeName(i))
		}
		for range 300 {
			w.disturb()
			w.step()
		}
		for range 400 {
			w.live()
			w.step()
		}
		s := w.board.status(w.set, nil)
		if s.NumberAvailable != s.DesiredNumberScheduled || s.CurrentNumberScheduled != s.DesiredNumberScheduled ||
			w.board.rolling && s.UpdatedNumberScheduled != s.DesiredNumberScheduled || len(w.pods) != int(s.DesiredNumberScheduled+s.NumberMisscheduled) {
			t.Fatalf("seed %d, %s: in the end %d pods and %+v", seed, strategy, len(w.pods), s)
		}
	}
}

// world is a cluster of one set, without time.
type world struct {
	t     *testing.T
	seed  uint64
	r     *rand.Rand
	set   *appsv1.DaemonSet
	hash  string
	nodes map[string]*corev1.Node
	pods  map[string]*corev1.Pod
	board *board
	born  int
}

func nodeName(i int) string { return "n" + strconv.Itoa(i) }

func (w *world) on(node string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range w.pods {
		if pod.Spec.NodeName == node {
			out = append(out, pod)
		}
	}
	return out
}

func (w *world) judge(node string) {
	n := w.nodes[node]
	w.board.put(node, n != nil, w.board.judge(n, w.on(node), now), now)
}

func (w *world) pick() *corev1.Pod {
	on := w.on(nodeName(w.r.IntN(6)))
	if len(on) == 0 {
		return nil
	}
	slices.SortFunc(on, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return on[w.r.IntN(len(on))]
}

func (w *world) disturb() {
	pod, node := w.pick(), nodeName(w.r.IntN(6))
	switch w.r.IntN(12) {
	case 0:
		w.hash = "h" + strconv.Itoa(w.r.IntN(3))
		w.board = newBoard(newRules(w.set, w.hash))
		for i := range 6 {
			w.judge(nodeName(i))
		}
		return
	case 1:
		w.nodes[node] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}
		if w.r.IntN(2) == 0 {
			w.nodes[node].Spec.Taints = []corev1.Taint{{Key: "k", Effect: []corev1.TaintEffect{"NoSchedule", "NoExecute"}[w.r.IntN(2)]}}
		}
		w.judge(node)
		return
	case 2:
		delete(w.nodes, node)
		for _, pod := range w.on(node) { // the pod garbage collector
			delete(w.pods, pod.Name)
		}
		w.judge(node)
		return
	}
	if pod == nil {
		return
	}
	switch w.r.IntN(6) {
	case 0:
		pod.DeletionTimestamp = &metav1.Time{Time: now}
	case 1:
		pod.Status.Phase = corev1.PodFailed
		pod.Status.Conditions = nil
	case 2:
		pod.Status.Conditions = nil
	default:
		w.live()
		return
	}
	w.judge(pod.Spec.NodeName)
}

func (w *world) live() {
	pod := w.pick()
	switch {
	case pod == nil:
		return
	case pod.DeletionTimestamp != nil:
		delete(w.pods, pod.Name)
	case pod.Status.Phase != corev1.PodFailed:
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
	w.judge(pod.Spec.NodeName)
}

// step checks the board, and does a part of its plan: the controller may die at any point.
func (w *world) step() {
	whole := newBoard(w.board.rules)
	for i := range 6 {
		n := w.nodes[nodeName(i)]
		whole.put(nodeName(i), n != nil, whole.judge(n, w.on(nodeName(i)), now), now)
	}
	p := w.board.plan()
	if whole.sum != w.board.sum || whole.plan().String() != p.String() {
		w.t.Fatalf("seed %d: the board has %+v and plans %s, one made anew %+v and %s", w.seed, w.board.sum, p, whole.sum, whole.plan())
	}
	w.check(p)
	budget := w.r.IntN(5)
	for _, node := range p.create {
		if budget--; budget < 0 {
			return
		}
		w.born++
		pod := testPod(node, "p"+strconv.Itoa(w.born), w.born)
		pod.Labels["controller-revision-hash"] = w.hash
		w.pods[pod.Name] = pod
		w.judge(node)
	}
	remove := p.remove
	for _, e := range p.ended {
		remove = append(remove, e.pod)
	}
	for _, pod := range remove {
		if budget--; budget < 0 {
			return
		}
		pod.DeletionTimestamp = &metav1.Time{Time: now}
		w.judge(pod.Spec.NodeName)
	}
}

func (w *world) check(p *plan) {
	well := func(pod *corev1.Pod) bool {
		return pod.DeletionTimestamp == nil && control.IsReady(pod) && !control.IsTerminal(pod)
	}
	gone := map[string]bool{}
	for _, pod := range p.remove {
		if pod.DeletionTimestamp != nil || gone[pod.Name] {
			w.t.Fatalf("seed %d: %s is asked to go twice", w.seed, pod.Name)
		}
		gone[pod.Name] = true
	}
	before, after, desired := 0, 0, 0
	for name, n := range w.nodes {
		if should, _ := w.board.fits(n); !should {
			continue
		}
		desired++
		on := w.on(name)
		if slices.ContainsFunc(on, well) {
			before++
		}
		if slices.ContainsFunc(on, func(p *corev1.Pod) bool { return well(p) && !gone[p.Name] }) {
			after++
		}
		if slices.Contains(p.create, name) && len(on) > 0 && !w.board.surge {
			w.t.Fatalf("seed %d: a second pod for %s: %s", w.seed, name, p)
		}
	}
	limit := w.board.maxUnavailable()
	if w.board.surge {
		limit = 0
	}
	// Of two pods on a node the older stays, though the younger may be the one that is well.
	if after < before && desired-after > limit && !w.doubled() {
		w.t.Fatalf("seed %d: plan %s leaves %d of %d nodes served, %d were, and %d may be down", w.seed, p, after, desired, before, limit)
	}
}

func (w *world) doubled() bool {
	for name := range w.nodes {
		live := 0
		for _, pod := range w.on(name) {
			if pod.DeletionTimestamp == nil && !control.IsTerminal(pod) {
				live++
			}
		}
		if live > 1 {
			return true
		}
	}
	return false
}
