package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// burst bounds what one sync creates or deletes, so that one large job does not keep the
// others waiting.
const burst = 500

// newPod is a pod to be made.
type newPod struct {
	index    int         // noIndex if the job is not indexed
	replaces *corev1.Pod // the failed pod of the same index before it, or nil
}

// plan is what is to be done about the job now.
type plan struct {
	// verdict is how the job is to end; nil while it is open.
	verdict *batchv1.JobCondition
	// create are pods to be made; never beside others to be removed.
	create []newPod
	// remove are pods too many. They are none of the job's failures.
	remove []*corev1.Pod
	// end are the pods of a job with a verdict. They are counted as they end.
	end []*corev1.Pod
	// again is when time alone asks for another look; 0 is never.
	again time.Duration
	// managed tells that the number of pods was looked at.
	managed bool
}

// decide makes the plan. It is given a prepared state, and changes nothing.
func decide(s *state) plan {
	p := plan{verdict: s.verdict}
	if p.verdict == nil {
		p.verdict = s.failure(&p)
	}
	if p.verdict == nil {
		if rule := successMatch(s.job.Spec.SuccessPolicy, s.done, s.completions); rule >= 0 {
			p.verdict = s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule))
		}
	}
	if p.verdict != nil {
		p.end = s.active
		return p
	}
	active := len(s.active)
	succeeded, _ := s.tally()
	if s.settled && s.job.DeletionTimestamp == nil {
		s.manage(&p, succeeded)
		p.managed = true
		active -= len(p.remove)
	}
	if s.complete(succeeded, active+len(p.create)) {
		p.verdict = s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
		p.create, p.again = nil, 0
		gone := p.remove
		for _, pod := range s.active {
			if !slices.Contains(gone, pod) {
				p.end = append(p.end, pod)
			}
		}
	}
	return p
}

func (s *state) condition(t batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	now := metav1.NewTime(s.now)
	return &batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now, Reason: reason, Message: message}
}

// failure is the verdict on a job that has failed, in the order in which the reasons count.
func (s *state) failure(p *plan) *batchv1.JobCondition {
	spec := &s.job.Spec
	target := func(reason, message string) *batchv1.JobCondition {
		return s.condition(batchv1.JobFailureTarget, reason, message)
	}
	if spec.PodFailurePolicy != nil {
		for _, pod := range s.pods {
			if pod.Status.Phase != corev1.PodFailed {
				continue
			}
			if action, message := verdictOf(spec.PodFailurePolicy, pod); action == batchv1.PodFailurePolicyActionFailJob {
				return target(batchv1.JobReasonPodFailurePolicy, message)
			}
		}
	}
	_, failed := s.tally()
	limit := int(ptr.Deref(spec.BackoffLimit, 6))
	if failed > limit || s.restartsSpent(limit) {
		return target(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if limit, start := spec.ActiveDeadlineSeconds, s.job.Status.StartTime; limit != nil && !s.suspended() {
		left := time.Duration(*limit) * time.Second
		if start != nil {
			left -= s.now.Sub(start.Time)
		}
		if left <= 0 && start != nil {
			return target(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
		p.later(left)
	}
	if s.perIndex() {
		n := s.lost.count()
		if spec.MaxFailedIndexes != nil && n > int(*spec.MaxFailedIndexes) {
			return target(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		}
		if n > 0 && n+s.done.count() >= s.completions {
			return target(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	return nil
}

// restartsSpent tells whether the restarts of pods that restart on failure are more than the
// limit allows.
func (s *state) restartsSpent(limit int) bool {
	if s.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := 0
	for _, p := range s.pods {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			n += int(c.RestartCount)
		}
	}
	if limit == 0 {
		return n > 0
	}
	return n >= limit
}

// complete tells whether all is done that was asked for.
func (s *state) complete(succeeded, active int) bool {
	if s.job.Spec.Completions == nil { // a work queue: its pods know when it is empty
		return succeeded > 0 && active == 0
	}
	return succeeded >= int(*s.job.Spec.Completions)
}

// later asks for another look after d, if that is the soonest.
func (p *plan) later(d time.Duration) {
	if d > 0 && (p.again == 0 || d < p.again) {
		p.again = d
	}
}

// manage finds which pods are missing or too many.
func (s *state) manage(p *plan, succeeded int) {
	want := 0
	switch parallelism := int(ptr.Deref(s.job.Spec.Parallelism, 1)); {
	case s.suspended():
	case s.job.Spec.Completions == nil:
		want = parallelism
		if succeeded > 0 { // the queue is empty or will be: those at work go on
			want = min(parallelism, len(s.active))
		}
	default:
		want = max(0, min(parallelism, int(*s.job.Spec.Completions)-succeeded))
	}
	if p.remove = s.tooMany(want); len(p.remove) > 0 {
		return
	}
	n := want - len(s.active)
	if s.replacesFailedOnly() {
		n -= len(s.terminating)
	}
	if n <= 0 {
		return
	}
	if !s.perIndex() {
		if d := s.history.wait(s.now); d > 0 {
			p.later(d)
			return
		}
	}
	p.create = s.missingPods(p, min(n, burst))
}

// tooMany returns the pods beyond want, and those whose index is not wanted (again).
func (s *state) tooMany(want int) []*corev1.Pod {
	pods := slices.Clone(s.active)
	slices.SortFunc(pods, rank)
	var out, rest []*corev1.Pod
	if s.indexed {
		taken := map[int]bool{}
		for _, p := range slices.Backward(pods) { // of two with the same index the further one stays
			i := s.index(p)
			if i == noIndex || taken[i] || s.done.has(i) {
				out = append(out, p)
				continue
			}
			taken[i] = true
			rest = append(rest, p)
		}
		slices.Reverse(rest)
		pods = rest
	}
	if more := len(pods) - want; more > 0 {
		out = append(out, pods[:more]...)
	}
	return out[:min(len(out), burst)]
}

// missingPods are n pods to be made, or as many as may be now.
func (s *state) missingPods(p *plan, n int) []newPod {
	out := make([]newPod, 0, n)
	if !s.indexed {
		for range n {
			out = append(out, newPod{index: noIndex})
		}
		return out
	}
	busy := make([]int, 0, len(s.active))
	for _, pod := range s.active {
		busy = append(busy, s.index(pod))
	}
	if s.replacesFailedOnly() {
		for _, pod := range s.terminating {
			busy = append(busy, s.index(pod))
		}
	}
	busy = slices.DeleteFunc(busy, func(i int) bool { return i == noIndex })
	taken := indexes(nil).with(busy)
	ask := n
	if s.perIndex() {
		ask += len(s.held) // some of those have to wait
	}
	for _, i := range missing(ask, s.completions, s.done, s.lost, taken) {
		old := s.held[i]
		if old != nil {
			if d := waitAfter(failuresUpTo(old)+1, finished(old), s.now); d > 0 {
				p.later(d)
				continue
			}
		}
		if out = append(out, newPod{index: i, replaces: old}); len(out) == n {
			break
		}
	}
	return out
}
