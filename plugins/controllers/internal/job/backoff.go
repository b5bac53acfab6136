package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/controllers/internal/control"
)

// The time until the pod after a failed one: it doubles with each failure in a row.
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 10 * time.Minute
)

// remembered bounds the failures that a history holds. Eight in a row are at maxBackoff.
const remembered = 16

// history is when pods of a job failed since one last succeeded. It is kept beside the pods,
// since those that were deleted count too; what a new process does not know of them is lost.
type history struct {
	succeeded time.Time
	failed    map[types.UID]time.Time
}

// observe takes in the ended pods. Those that were too many, as when the job was suspended,
// lost their finalizer before they were deleted and are no failures.
func (h *history) observe(s *state) {
	for _, p := range s.pods {
		if p.Status.Phase == corev1.PodSucceeded {
			if at := finished(p); at.After(h.succeeded) {
				h.succeeded = at
			}
		}
	}
	for _, p := range s.pods {
		if s.failed(p) && (p.DeletionTimestamp == nil || s.isTracked(p)) {
			if at := finished(p); at.After(h.succeeded) {
				if h.failed == nil {
					h.failed = map[types.UID]time.Time{}
				}
				if old, known := h.failed[p.UID]; !known || at.Before(old) {
					h.failed[p.UID] = at
				}
			}
		}
	}
	for uid, at := range h.failed {
		if !at.After(h.succeeded) {
			delete(h.failed, uid)
		}
	}
	h.trim()
}

// trim forgets the oldest failures beyond those that count.
func (h *history) trim() {
	if len(h.failed) <= remembered {
		return
	}
	times := make([]time.Time, 0, len(h.failed))
	for _, at := range h.failed {
		times = append(times, at)
	}
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) })
	for uid, at := range h.failed {
		if at.Before(times[remembered-1]) {
			delete(h.failed, uid)
		}
	}
}

// wait is how long no pod is to be made after now.
func (h *history) wait(now time.Time) time.Duration {
	var last time.Time
	for _, at := range h.failed {
		if at.After(last) {
			last = at
		}
	}
	return waitAfter(len(h.failed), last, now)
}

// waitAfter is what is left of the time after the last of a number of failures.
func waitAfter(failures int, last, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	d := maxBackoff
	if failures <= 7 {
		d = min(maxBackoff, firstBackoff<<(failures-1))
	}
	return max(0, last.Add(d).Sub(now))
}

// finished is when a pod ended, as well as it tells.
func finished(p *corev1.Pod) time.Time {
	var at time.Time
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	}
	if !at.IsZero() {
		return at
	}
	if c := control.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() && control.IsTerminal(p) {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		at = p.DeletionTimestamp.Time
		if g := p.DeletionGracePeriodSeconds; g != nil && *g > 0 {
			at = at.Add(-time.Duration(*g) * time.Second)
		}
		return at
	}
	return p.CreationTimestamp.Time
}
