package statefulset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// state is what a decision is made from. Nothing in it is changed.
type state struct {
	set  *appsv1.StatefulSet
	pods []*corev1.Pod // all that the set owns, ended and terminating ones too
	// claim returns the claim with that name in the set's namespace, or nil.
	claim func(name string) *corev1.PersistentVolumeClaim
	// current and update are the names of the revisions that the pods come from
	// and go to.
	current, update string
	collisions      int32
	now             time.Time
}

// plan is what to do now, in the order of its fields. What comes of it shows up in the
// next state.
type plan struct {
	retain []*corev1.Pod // pods on their way out, whose claims get the owners that fit
	supply []*corev1.Pod // pending pods that lack a claim
	mend   []*corev1.Pod // pods whose identity, volumes or claims' owners are not theirs
	create []int         // ordinals
	remove []*corev1.Pod

	status appsv1.StatefulSetStatus
	wake   time.Duration // when to look again, if nothing happens until then; 0: never
}

// ordered tells whether the set's pods come and go one at a time.
func ordered(set *appsv1.StatefulSet) bool {
	return set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

// decide is the whole of what a StatefulSet means, without any I/O.
func decide(s *state) *plan {
	d := &decision{state: s, plan: &plan{}}
	d.place()
	d.plan.status = d.newStatus()
	if s.set.DeletionTimestamp == nil && d.fill() && d.shrink() {
		d.roll()
	}
	return d.plan
}

// decision is one under way.
type decision struct {
	*state

	plan      *plan
	replicas  []*corev1.Pod // by ordinal from the first on; nil: there is none
	condemned []*corev1.Pod // beyond the ordinals wanted, the highest first
}

func (d *decision) place() {
	first, n := ordinals(d.set)
	d.replicas = make([]*corev1.Pod, n)
	for _, pod := range d.pods {
		i, ok := ordinal(d.set.Name, pod.Name)
		switch {
		case !ok:
		case i >= first && i < first+n:
			d.replicas[i-first] = pod
		default:
			d.condemned = append(d.condemned, pod)
		}
	}
	slices.SortFunc(d.condemned, func(a, b *corev1.Pod) int {
		i, _ := ordinal(d.set.Name, a.Name)
		j, _ := ordinal(d.set.Name, b.Name)
		return cmp.Compare(j, i)
	})
}

func (d *decision) ready(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && control.IsReady(pod)
}

// available tells whether the pod has been ready for long enough, and notes when it
// will have been.
func (d *decision) available(pod *corev1.Pod) bool {
	if !d.ready(pod) {
		return false
	}
	in, _ := control.AvailableIn(pod, d.set.Spec.MinReadySeconds, d.now)
	if in > 0 && (d.plan.wake == 0 || in < d.plan.wake) {
		d.plan.wake = in
	}
	return in == 0
}

// healthy tells whether others may come, go or be replaced as far as this pod goes.
func (d *decision) healthy(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && d.available(pod)
}

// fill makes what is missing in the range of ordinals. It returns false if nothing else
// may be done yet.
func (d *decision) fill() bool {
	first, _ := ordinals(d.set)
	inOrder := ordered(d.set)
	for i, pod := range d.replicas {
		if pod == nil {
			if d.awaitsClaims(first + i) {
				return false
			}
			d.plan.create = append(d.plan.create, first+i)
			if inOrder {
				return false
			}
			continue
		}
		if control.IsTerminal(pod) {
			// The new one comes when this one is gone: a name is never used twice at once.
			if pod.DeletionTimestamp == nil {
				d.plan.remove = append(d.plan.remove, pod)
			}
			if inOrder {
				return false
			}
			continue
		}
		if pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil && d.lacksClaims(pod) {
			d.plan.supply = append(d.plan.supply, pod)
		}
		if inOrder && !d.healthy(pod) {
			return false
		}
		if pod.DeletionTimestamp == nil && !d.fits(pod) {
			d.plan.mend = append(d.plan.mend, pod)
		}
	}
	return true
}

// awaitsClaims tells whether a claim of the ordinal is on its way out with the pod that
// had the name before.
func (d *decision) awaitsClaims(ordinal int) bool {
	name := podName(d.set, ordinal)
	for i := range d.set.Spec.VolumeClaimTemplates {
		if c := d.claim(claimName(&d.set.Spec.VolumeClaimTemplates[i], name)); c != nil && staleOwner(c, name) {
			return true
		}
	}
	return false
}

func (d *decision) lacksClaims(pod *corev1.Pod) bool {
	return slices.ContainsFunc(d.set.Spec.VolumeClaimTemplates, func(t corev1.PersistentVolumeClaim) bool {
		return d.claim(claimName(&t, pod.Name)) == nil
	})
}

func (d *decision) fits(pod *corev1.Pod) bool {
	return identityFits(d.set, pod) && volumesFit(d.set, pod) && d.claimsFit(pod)
}

func (d *decision) claimsFit(pod *corev1.Pod) bool {
	for i := range d.set.Spec.VolumeClaimTemplates {
		if c := d.claim(claimName(&d.set.Spec.VolumeClaimTemplates[i], pod.Name)); c != nil && !ownersFit(c, d.set, pod) {
			return false
		}
	}
	return true
}

// shrink removes what is beyond the range, the highest first. It returns false if
// nothing else may be done yet.
func (d *decision) shrink() bool {
	inOrder := ordered(d.set)
	lowest := d.lowestUnhealthy()
	for _, pod := range d.condemned {
		if !d.claimsFit(pod) {
			d.plan.retain = append(d.plan.retain, pod)
		}
		switch {
		case pod.DeletionTimestamp != nil:
		case inOrder && !d.healthy(pod) && !control.IsTerminal(pod) && pod != lowest:
		default:
			d.plan.remove = append(d.plan.remove, pod)
		}
		if inOrder {
			return false
		}
	}
	return true
}

// lowestUnhealthy is the one pod that may go although it is not healthy: waiting for it
// could last for ever. All replicas are healthy by then.
func (d *decision) lowestUnhealthy() *corev1.Pod {
	for _, pod := range slices.Backward(d.condemned) {
		if !d.healthy(pod) {
			return pod
		}
	}
	return nil
}

// roll replaces pods of other revisions than the newest, from the highest ordinal down
// to the partition, as long as no more than maxUnavailable pods are down. A pod that is
// down anyway costs nothing to replace.
func (d *decision) roll() {
	if d.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return
	}
	first, _ := ordinals(d.set)
	down := 0
	for _, pod := range d.replicas {
		if !d.healthy(pod) {
			down++
		}
	}
	limit := maxUnavailable(d.set)
	for i := len(d.replicas) - 1; i >= 0 && first+i >= partition(d.set); i-- {
		pod := d.replicas[i]
		if pod == nil || pod.DeletionTimestamp != nil || control.IsTerminal(pod) || revisionOf(pod) == d.update {
			continue
		}
		if d.healthy(pod) {
			if down >= limit {
				continue
			}
			down++
		}
		d.plan.remove = append(d.plan.remove, pod)
	}
}

func partition(set *appsv1.StatefulSet) int {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil {
		first, _ := ordinals(set)
		return first + int(ptr.Deref(r.Partition, 0))
	}
	return 0
}

func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(ptr.Deref(set.Spec.Replicas, 1)), true)
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// newRevision is the revision of a pod to be made for the ordinal.
func (s *state) newRevision(ordinal int) string {
	if s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && ordinal < partition(s.set) {
		return s.current
	}
	return s.update
}

func (d *decision) newStatus() appsv1.StatefulSetStatus {
	s := *d.set.Status.DeepCopy()
	s.ObservedGeneration, s.CollisionCount = d.set.Generation, new(d.collisions)
	s.CurrentRevision, s.UpdateRevision = d.current, d.update
	s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas = 0, 0, 0, 0, 0
	for _, pods := range [][]*corev1.Pod{d.replicas, d.condemned} {
		for _, pod := range pods {
			if pod == nil {
				continue
			}
			s.Replicas++
			if d.ready(pod) {
				s.ReadyReplicas++
			}
			if d.available(pod) {
				s.AvailableReplicas++
			}
			if pod.DeletionTimestamp != nil {
				continue
			}
			if revisionOf(pod) == d.current {
				s.CurrentReplicas++
			}
			if revisionOf(pod) == d.update {
				s.UpdatedReplicas++
			}
		}
	}
	wanted := ptr.Deref(d.set.Spec.Replicas, 1)
	if d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && s.Replicas == wanted &&
		s.UpdatedReplicas == wanted && s.ReadyReplicas == wanted {
		s.CurrentRevision, s.CurrentReplicas = s.UpdateRevision, s.UpdatedReplicas
	}
	return s
}
