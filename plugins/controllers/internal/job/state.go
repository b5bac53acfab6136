package job

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// noIndex is that of a pod without a usable completion index.
const noIndex = -1

// maxUncounted bounds the pods that one sync counts: their UIDs are in the status meanwhile.
const maxUncounted = 500

// state is what a sync knows: the job, its pods, and what follows from both.
type state struct {
	job  *batchv1.Job
	pods []*corev1.Pod
	now  time.Time
	// released are pods whose finalizer this process has removed, which the cache may not
	// know yet.
	released func(types.UID) bool
	// settled tells whether the cache has all that was created and deleted before.
	settled bool
	history *history

	active, terminating []*corev1.Pod
	ready               int
	tracked             int // pods with the finalizer

	// verdict is how the job is to end, FailureTarget or SuccessCriteriaMet; nil while it is
	// open.
	verdict *batchv1.JobCondition

	indexed     bool
	completions int // of an indexed job
	// done and lost are the indexes that have succeeded and failed.
	done, lost indexes
	// held are failed pods, by index, that stay uncounted until a pod replaces them: they
	// know how often their index has failed.
	held map[int]*corev1.Pod
}

func newState(job *batchv1.Job, pods []*corev1.Pod, now time.Time) *state {
	s := &state{job: job, pods: pods, now: now, released: func(types.UID) bool { return false }, settled: true, history: &history{}}
	return s
}

// prepare works out what follows from the job and its pods.
func (s *state) prepare() {
	spec := &s.job.Spec
	s.indexed = ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
	if s.indexed {
		s.completions = int(ptr.Deref(spec.Completions, 0))
	}
	s.verdict = recorded(s.job)
	for _, p := range s.pods {
		if s.isTracked(p) {
			s.tracked++
		}
		switch {
		case control.IsTerminal(p):
		case p.DeletionTimestamp != nil:
			s.terminating = append(s.terminating, p)
		default:
			s.active = append(s.active, p)
			if control.IsReady(p) {
				s.ready++
			}
		}
	}
	if s.indexed {
		s.sortIndexes()
	}
	s.history.observe(s)
}

// recorded is the verdict that the status has.
func recorded(job *batchv1.Job) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		c := &job.Status.Conditions[i]
		if (c.Type == batchv1.JobFailureTarget || c.Type == batchv1.JobSuccessCriteriaMet) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// isTracked tells whether the pod has the finalizer: it has not been counted to the end.
func (s *state) isTracked(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) && !s.released(p.UID)
}

// replacesFailedOnly tells whether a pod on its way out is replaced when it has ended only.
func (s *state) replacesFailedOnly() bool {
	return ptr.Deref(s.job.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed || s.job.Spec.PodFailurePolicy != nil
}

// failed tells whether a pod is a failure. One that was deleted is, since it may never come
// to say so, unless the job wants to know how it ended.
func (s *state) failed(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodFailed {
		return true
	}
	if p.DeletionTimestamp == nil || p.Status.Phase == corev1.PodSucceeded {
		return false
	}
	return !s.replacesFailedOnly() || s.verdict != nil
}

// perIndex tells whether each index has a back-off limit of its own.
func (s *state) perIndex() bool { return s.indexed && s.job.Spec.BackoffLimitPerIndex != nil }

// suspended tells whether the job is to have no pods.
func (s *state) suspended() bool { return ptr.Deref(s.job.Spec.Suspend, false) }

// index is a pod's completion index, if it is one of the job's.
func (s *state) index(p *corev1.Pod) int {
	if i := indexOf(p); i < s.completions {
		return i
	}
	return noIndex
}

func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

// counts tells whether a failed pod goes to the failures of the job.
func (s *state) counts(p *corev1.Pod) bool {
	if s.indexed && s.index(p) == noIndex {
		return false
	}
	if s.job.Spec.PodFailurePolicy == nil || p.Status.Phase != corev1.PodFailed {
		return true
	}
	action, _ := verdictOf(s.job.Spec.PodFailurePolicy, p)
	return action != batchv1.PodFailurePolicyActionIgnore
}

// sortIndexes fills done, lost and held.
func (s *state) sortIndexes() {
	s.done = parseIndexes(s.job.Status.CompletedIndexes, s.completions)
	var ended []int
	for _, p := range s.pods {
		if p.Status.Phase == corev1.PodSucceeded && s.isTracked(p) {
			if i := s.index(p); i != noIndex {
				ended = append(ended, i)
			}
		}
	}
	s.done = s.done.with(ended)
	if !s.perIndex() {
		return
	}
	s.lost = parseIndexes(ptr.Deref(s.job.Status.FailedIndexes, ""), s.completions)
	var failures []*corev1.Pod
	var lost []int
	for _, p := range s.pods {
		i := s.index(p)
		if i == noIndex || !s.isTracked(p) || !s.failed(p) || s.done.has(i) {
			continue
		}
		failures = append(failures, p)
		if s.indexLost(p) {
			lost = append(lost, i)
		}
	}
	s.lost = s.lost.with(lost)
	running := map[int]bool{}
	for _, p := range s.active {
		running[s.index(p)] = true
	}
	s.held = map[int]*corev1.Pod{}
	for _, p := range failures {
		i := s.index(p)
		if s.lost.has(i) || running[i] {
			continue
		}
		if old := s.held[i]; old == nil || failuresUpTo(p) > failuresUpTo(old) {
			s.held[i] = p
		}
	}
}

// indexLost tells whether the index of a failed pod has failed with it.
func (s *state) indexLost(p *corev1.Pod) bool {
	action, _ := verdictOf(s.job.Spec.PodFailurePolicy, p)
	switch {
	case p.Status.Phase == corev1.PodFailed && action == batchv1.PodFailurePolicyActionFailIndex:
		return true
	case p.Status.Phase == corev1.PodFailed && action == batchv1.PodFailurePolicyActionIgnore:
		return false
	}
	return number(p, batchv1.JobIndexFailureCountAnnotation) >= int(*s.job.Spec.BackoffLimitPerIndex)
}

func number(p *corev1.Pod, annotation string) int {
	n, err := strconv.Atoi(p.Annotations[annotation])
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// failuresUpTo is how often the pod's index had failed before it, ignored failures included.
func failuresUpTo(p *corev1.Pod) int {
	return number(p, batchv1.JobIndexFailureCountAnnotation) + number(p, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

// tally is how many pods have succeeded and failed, counted or not.
func (s *state) tally() (succeeded, failed int) {
	st := &s.job.Status
	succeeded, failed = int(st.Succeeded), int(st.Failed)
	waiting := map[types.UID]bool{}
	if u := st.UncountedTerminatedPods; u != nil {
		succeeded += len(u.Succeeded)
		failed += len(u.Failed)
		for _, uid := range slices.Concat(u.Succeeded, u.Failed) {
			waiting[uid] = true
		}
	}
	for _, p := range s.pods {
		if !s.isTracked(p) || waiting[p.UID] {
			continue
		}
		switch {
		case p.Status.Phase == corev1.PodSucceeded:
			succeeded++
		case s.failed(p) && s.counts(p):
			failed++
		}
	}
	if s.indexed {
		succeeded = s.done.count()
	}
	return succeeded, failed
}

// rank orders pods by how early they are to go: those that have done least.
func rank(a, b *corev1.Pod) int {
	phase := func(p *corev1.Pod) int {
		switch {
		case p.Spec.NodeName == "":
			return 0
		case p.Status.Phase == corev1.PodPending || p.Status.Phase == "":
			return 1
		case p.Status.Phase == corev1.PodUnknown:
			return 2
		case !control.IsReady(p):
			return 3
		}
		return 4
	}
	return cmp.Or(cmp.Compare(phase(a), phase(b)), b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
