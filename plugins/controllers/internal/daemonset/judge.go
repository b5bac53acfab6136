package daemonset

import (
	"slices"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// rules are what one generation of a set says, prepared for many nodes.
type rules struct {
	set         *appsv1.DaemonSet
	hash        string // of the current revision
	affinity    nodeaffinity.RequiredNodeAffinity
	tolerations []corev1.Toleration
	rolling     bool // pods of other revisions are replaced
	surge       bool // beside them, and not after them
}

func newRules(set *appsv1.DaemonSet, hash string) *rules {
	spec := &set.Spec.Template.Spec
	r := &rules{
		set: set, hash: hash, affinity: nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
		tolerations: tolerations(spec), rolling: set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType,
	}
	r.surge = r.rolling && scaled(surgeOf(set), 100, 0) > 0
	return r
}

func surgeOf(set *appsv1.DaemonSet) *intstr.IntOrString {
	if u := set.Spec.UpdateStrategy.RollingUpdate; u != nil {
		return u.MaxSurge
	}
	return nil
}

// scaled is v of n nodes, rounded up, or without v what else says.
func scaled(v *intstr.IntOrString, n, without int) int {
	if v == nil {
		return without
	}
	got, err := intstr.GetScaledValueFromIntOrPercent(v, n, true)
	if err != nil {
		return without
	}
	return got
}

// fits tells whether the node is to have a pod, and whether one that is there may stay:
// a NoSchedule taint that came later does not drive it away.
func (r *rules) fits(node *corev1.Node) (should, may bool) {
	if name := r.set.Spec.Template.Spec.NodeName; name != "" && name != node.Name {
		return false, false
	}
	if ok, err := r.affinity.Match(node); !ok || err != nil {
		return false, false
	}
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := schedulinghelper.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, r.tolerations, func(t *corev1.Taint) bool {
			return slices.Contains(effects, t.Effect)
		}, true)
		return found
	}
	switch {
	case untolerated(corev1.TaintEffectNoExecute):
		return false, false
	case untolerated(corev1.TaintEffectNoSchedule):
		return false, true
	}
	return true, true
}

func (r *rules) updated(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == r.hash
}

// verdict is what is so, and what is to be done, on one node.
type verdict struct {
	// For the status: the node is to have a pod; has one; has one that it is not to
	// have; and what the pod is that stands for the node.
	desired, current, misscheduled, ready, available, updated bool

	create bool          // the pod is missing
	remove []*corev1.Pod // pods too many, or not wanted here
	ended  []*corev1.Pod // pods that have failed or succeeded

	// For the roll-out. old is the pod to replace: right away if spent, since it is not
	// available anyway, and else as far as there is room.
	old     *corev1.Pod
	spent   bool
	down    bool          // takes from the room of maxUnavailable
	surging bool          // takes from the room of maxSurge: a new pod beside an old one
	wake    time.Duration // when a pod becomes available; 0: none
}

// judge looks at a node, which may be gone (nil), and the set's pods on it or meant for
// it, ended and terminating ones too.
func (r *rules) judge(node *corev1.Node, pods []*corev1.Pod, now time.Time) *verdict {
	v := &verdict{}
	if node == nil {
		// Pods that ran there are the pod garbage collection's.
		for _, pod := range pods {
			if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				v.remove = append(v.remove, pod)
			}
		}
		return v
	}
	should, may := r.fits(node)
	pods = slices.Clone(pods)
	slices.SortFunc(pods, byStanding)
	r.report(v, should, pods, now)
	var live []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case !may:
			v.remove = append(v.remove, pod)
		case control.IsTerminal(pod):
			v.ended = append(v.ended, pod)
		default:
			live = append(live, pod)
		}
	}
	v.create = should && len(pods) == 0
	if may {
		if r.surge {
			r.judgeSurge(v, should, live, now)
		} else {
			r.judgeInPlace(v, should, live, now)
		}
	}
	return v
}

// byStanding puts the pod first that stands for the node: one that nobody has asked to
// go, that has not ended, the oldest.
func byStanding(a, b *corev1.Pod) int {
	rank := func(p *corev1.Pod) int {
		switch {
		case control.IsTerminal(p):
			return 2
		case p.DeletionTimestamp != nil:
			return 1
		}
		return 0
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	if d := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); d != 0 {
		return d
	}
	// Of the same second: the one that has a node, and then any, but always the same.
	if (a.Spec.NodeName == "") != (b.Spec.NodeName == "") {
		return len(b.Spec.NodeName) - len(a.Spec.NodeName)
	}
	if a.Name < b.Name {
		return -1
	}
	return 1
}

func (r *rules) report(v *verdict, should bool, pods []*corev1.Pod, now time.Time) {
	v.desired, v.current, v.misscheduled = should, should && len(pods) > 0, !should && len(pods) > 0
	if !v.current {
		return
	}
	v.updated = r.updated(pods[0])
	if !control.IsTerminal(pods[0]) {
		v.ready, v.available = control.IsReady(pods[0]), r.available(v, pods[0], now)
	}
}

// available tells whether the pod has been ready for long enough.
func (r *rules) available(v *verdict, pod *corev1.Pod, now time.Time) bool {
	in, ready := control.AvailableIn(pod, r.set.Spec.MinReadySeconds, now)
	if ready && in > 0 && (v.wake == 0 || in < v.wake) {
		v.wake = in
	}
	return ready && in == 0
}

// judgeInPlace: one pod to a node, and the new one comes when the old one is gone.
func (r *rules) judgeInPlace(v *verdict, should bool, live []*corev1.Pod, now time.Time) {
	if len(live) == 0 {
		v.down = should
		return
	}
	v.remove = append(v.remove, live[1:]...)
	pod := live[0]
	v.down = !r.available(v, pod, now)
	if r.rolling && !r.updated(pod) {
		v.old, v.spent = pod, v.down
	}
}

// judgeSurge: a new pod may stand beside the old one, which goes when the new one is
// available.
func (r *rules) judgeSurge(v *verdict, should bool, live []*corev1.Pod, now time.Time) {
	var fresh, old *corev1.Pod
	for _, pod := range live {
		which := &old
		if r.updated(pod) {
			which = &fresh
		}
		if *which != nil {
			v.remove = append(v.remove, pod)
			continue
		}
		*which = pod
	}
	switch {
	case old == nil:
	case fresh == nil:
		if should {
			v.old, v.spent = old, !r.available(v, old, now)
		}
	case !r.available(v, old, now), r.available(v, fresh, now):
		v.remove = append(v.remove, old)
	default:
		v.surging = true
	}
}
