package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// A pod that has ended is counted in three steps, each of which may be the last of a process:
// its UID is written to the status, its finalizer is removed, its UID makes place for one more
// in the counter. A pod with the finalizer has not been counted unless its UID is in the
// status; one without has been counted, or is just to be moved. Successes of indexed jobs need
// no UIDs: their indexes are in the status.

// outcome is what became of the plan.
type outcome struct {
	created int
	// gone are pods that were deleted just now.
	gone []*corev1.Pod
}

// status is what the status is to be before finalizers are removed, and the pods whose
// finalizers may go then. more tells that there are more pods to be counted.
func (s *state) status(p plan, did outcome) (st batchv1.JobStatus, release []*corev1.Pod, more bool) {
	st = *s.job.Status.DeepCopy()
	if st.UncountedTerminatedPods == nil {
		st.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	settle(&st, s.trackedSet(), s.indexed)
	release, more = s.count(&st)
	active, terminating, ready := len(s.active)+did.created, len(s.terminating), s.ready
	for _, pod := range did.gone {
		active--
		terminating++
		if control.IsReady(pod) {
			ready--
		}
	}
	// A cache that is behind what this process did tells old numbers; it will be asked again.
	if s.settled || p.verdict != nil || st.Ready == nil || st.Terminating == nil {
		st.Active, st.Terminating, st.Ready = int32(active), new(int32(terminating)), new(int32(ready))
	}
	if st.StartTime == nil && !s.suspended() {
		st.StartTime = new(metav1.NewTime(s.now))
	}
	if p.verdict != nil && s.verdict == nil {
		st.Conditions = append(st.Conditions, *p.verdict)
	}
	if p.verdict == nil && p.managed {
		s.markSuspended(&st)
	}
	return st, release, more
}

// trackedSet are the UIDs of the pods that have the finalizer.
func (s *state) trackedSet() map[types.UID]bool {
	out := make(map[types.UID]bool, s.tracked)
	for _, p := range s.pods {
		if s.isTracked(p) {
			out[p.UID] = true
		}
	}
	return out
}

// settle moves to the counters the pods that have lost their finalizer.
func settle(st *batchv1.JobStatus, tracked map[types.UID]bool, indexed bool) {
	u := st.UncountedTerminatedPods
	move := func(list []types.UID, counter *int32) []types.UID {
		return slices.DeleteFunc(list, func(uid types.UID) bool {
			if tracked[uid] {
				return false
			}
			*counter++
			return true
		})
	}
	succeeded := st.Succeeded
	u.Succeeded, u.Failed = move(u.Succeeded, &succeeded), move(u.Failed, &st.Failed)
	if !indexed {
		st.Succeeded = succeeded
	}
	if len(u.Succeeded) == 0 {
		u.Succeeded = nil
	}
	if len(u.Failed) == 0 {
		u.Failed = nil
	}
}

// count adds to the uncounted pods those that have ended, and returns the pods whose finalizer
// may go once the status is written.
func (s *state) count(st *batchv1.JobStatus) (release []*corev1.Pod, more bool) {
	u := st.UncountedTerminatedPods
	known := make(map[types.UID]bool, len(u.Succeeded)+len(u.Failed))
	for _, uid := range slices.Concat(u.Succeeded, u.Failed) {
		known[uid] = true
	}
	before := parseIndexes(st.CompletedIndexes, s.completions)
	var ended []int
	deleting := s.job.DeletionTimestamp != nil
	for _, p := range s.pods {
		if !s.isTracked(p) {
			continue
		}
		if len(u.Succeeded)+len(u.Failed)+len(ended) >= maxUncounted {
			more = true
			break
		}
		index := noIndex
		if s.indexed {
			index = s.index(p)
		}
		switch {
		case known[p.UID]:
		case p.Status.Phase == corev1.PodSucceeded:
			if !s.indexed {
				u.Succeeded = append(u.Succeeded, p.UID)
			} else if index != noIndex && !before.has(index) {
				ended = append(ended, index)
			}
		case s.failed(p):
			if !deleting && s.verdict == nil && index != noIndex && s.held[index] == p {
				continue
			}
			if s.counts(p) {
				u.Failed = append(u.Failed, p.UID)
			}
		case !deleting:
			continue
		}
		release = append(release, p)
	}
	if s.indexed {
		done := before.with(ended)
		st.CompletedIndexes, st.Succeeded = done.String(), int32(done.count())
		if s.perIndex() {
			st.FailedIndexes = new(s.lost.String())
		}
	}
	return release, more
}

// markSuspended says in the conditions whether the job is suspended. The time it began is that
// of its last resumption.
func (s *state) markSuspended(st *batchv1.JobStatus) {
	now := metav1.NewTime(s.now)
	c := batchv1.JobCondition{
		Type: batchv1.JobSuspended, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now,
		Reason: "JobSuspended", Message: "Job suspended",
	}
	if !s.suspended() {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "JobResumed", "Job resumed"
	}
	at := slices.IndexFunc(st.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobSuspended })
	switch {
	case at >= 0 && st.Conditions[at].Status == c.Status, at < 0 && !s.suspended():
		return
	case at < 0:
		st.Conditions = append(st.Conditions, c)
	default:
		st.Conditions[at] = c
	}
	st.StartTime = nil
	if !s.suspended() {
		st.StartTime = &now
	}
}

// finish adds the condition that ends the job, once nothing of it is left to be counted.
func finish(st *batchv1.JobStatus, verdict *batchv1.JobCondition, now metav1.Time, tracked int) bool {
	u := st.UncountedTerminatedPods
	if verdict == nil || tracked > 0 || len(u.Succeeded)+len(u.Failed) > 0 || st.Active > 0 || *st.Terminating > 0 {
		return false
	}
	c := *verdict
	c.Type, c.LastProbeTime, c.LastTransitionTime = batchv1.JobFailed, now, now
	if verdict.Type == batchv1.JobSuccessCriteriaMet {
		c.Type = batchv1.JobComplete
		st.CompletionTime = &now
	}
	st.Conditions = append(st.Conditions, c)
	return true
}

// isFinished tells whether the job has ended, and the condition that says so.
func isFinished(job *batchv1.Job) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		c := &job.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}
