package statefulset

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestDecideAlways: whatever happens to pods and set, no decision removes more pods that
// are well than it may, touches a terminating one, or makes one out of its turn; and left
// alone, the set becomes what it is to be.
func TestDecideAlways(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		w := &world{t: t, seed: seed, r: r, pods: map[string]*corev1.Pod{}, set: testSet(3), revision: 1}
		if r.IntN(2) == 0 {
			parallel(w.set)
		}
		unavailable(strconv.Itoa(1 + r.IntN(3)))(w.set)
		for range 150 {
			w.disturb()
			w.step()
		}
		for range 400 {
			w.live()
			w.step()
		}
		n := int(*w.set.Spec.Replicas)
		if len(w.pods) != n {
			t.Fatalf("seed %d: in the end there are %d pods, want %d", seed, len(w.pods), n)
		}
		for _, pod := range w.pods {
			if revisionOf(pod) != w.update() {
				t.Fatalf("seed %d: in the end %s is of revision %s, want %s", seed, pod.Name, revisionOf(pod), w.update())
			}
		}
	}
}

// world is a cluster of one set, without time.
type world struct {
	t        *testing.T
	seed     uint64
	r        *rand.Rand
	set      *appsv1.StatefulSet
	pods     map[string]*corev1.Pod
	current  string
	revision int
	born     int
}

func (w *world) update() string { return "db-" + strconv.Itoa(w.revision) }

func (w *world) pick() *corev1.Pod {
	for i := range 20 {
		if pod := w.pods[podName(w.set, w.r.IntN(8))]; pod != nil || i == 19 {
			return pod
		}
	}
	return nil
}

// disturb is a change by people, or what befalls pods.
func (w *world) disturb() {
	pod := w.pick()
	switch w.r.IntN(10) {
	case 0:
		w.set.Spec.Replicas = new(w.r.Int32N(7))
	case 1:
		w.revision = 1 + w.r.IntN(3)
	case 2:
		if pod != nil {
			pod.DeletionTimestamp = &metav1.Time{Time: now}
		}
	case 3:
		if pod != nil {
			pod.Status.Phase = corev1.PodFailed
		}
	case 4:
		if pod != nil && pod.Status.Phase == corev1.PodRunning {
			pod.Status.Conditions = nil
		}
	default:
		w.live()
	}
}

// live is what a kubelet does next.
func (w *world) live() {
	pod := w.pick()
	switch {
	case pod == nil:
	case pod.DeletionTimestamp != nil:
		delete(w.pods, pod.Name)
	case pod.Status.Phase != corev1.PodFailed:
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
}

// step decides, checks the decision, and does a part of it: the controller may die at any
// point.
func (w *world) step() {
	s := &state{set: w.set, claim: func(string) *corev1.PersistentVolumeClaim { return nil }, current: w.current, update: w.update(), now: now}
	if s.current == "" {
		s.current = s.update
	}
	for _, pod := range w.pods {
		s.pods = append(s.pods, pod)
	}
	p := decide(s)
	w.check(p)
	w.current = p.status.CurrentRevision
	budget := w.r.IntN(8)
	for _, i := range p.create {
		if budget--; budget < 0 {
			return
		}
		pod := newPod(w.set, &w.set.Spec.Template, s.newRevision(i), i)
		w.born++
		pod.UID = types.UID(strconv.Itoa(w.born))
		pod.Status.Phase = corev1.PodPending
		w.pods[pod.Name] = pod
	}
	for _, pod := range p.remove {
		if budget--; budget < 0 {
			return
		}
		pod.DeletionTimestamp = &metav1.Time{Time: now}
	}
}

func (w *world) check(p *plan) {
	well := func(i int) bool {
		pod := w.pods[podName(w.set, i)]
		return pod != nil && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && len(pod.Status.Conditions) > 0
	}
	n := int(*w.set.Spec.Replicas)
	down := 0
	for i := range n {
		if !well(i) {
			down++
		}
	}
	taken := 0
	for _, pod := range p.remove {
		i, _ := ordinal(w.set.Name, pod.Name)
		if pod.DeletionTimestamp != nil {
			w.t.Fatalf("seed %d: %s is asked to go twice", w.seed, pod.Name)
		}
		if i < n && well(i) {
			taken++
		}
	}
	if taken > 0 && down+taken > maxUnavailable(w.set) {
		w.t.Fatalf("seed %d: plan %s takes %d pods, %d are down already, and %d may be", w.seed, p, taken, down, maxUnavailable(w.set))
	}
	for _, i := range p.create {
		if w.pods[podName(w.set, i)] != nil {
			w.t.Fatalf("seed %d: plan %s makes a pod that there is", w.seed, p)
		}
		for j := range i {
			if ordered(w.set) && !well(j) {
				w.t.Fatalf("seed %d: plan %s makes %d before %d is well", w.seed, p, i, j)
			}
		}
	}
	if ordered(w.set) && len(p.create) > 1 {
		w.t.Fatalf("seed %d: plan %s makes more than one", w.seed, p)
	}
}
