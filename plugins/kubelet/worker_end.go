package kubelet

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ending is a pod on its way out: containers are stopped, then sandbox, volumes and cgroup go, then (if it was deleted) the API's object.
type ending struct {
	since   time.Time
	grace   time.Duration
	message string
	phase   corev1.PodPhase // forced, else computed
	reason  string
	killCtx context.Context // ends when the kills under way are to be repeated with less grace
	redo    context.CancelFunc

	busy    bool
	try     retry
	clean   bool // nothing of it is left but logs and status
	deleted bool // the final delete was sent and answered
}

// decideEnd begins the end of the pod when something demands it, and shortens the grace when that changes.
func (w *podWorker) decideEnd(now time.Time) {
	if w.end != nil {
		if g := w.grace(); g < w.end.grace && (w.pod.DeletionTimestamp != nil || w.removed) && !w.end.clean {
			w.end.grace = g
			w.end.redo()
			w.end.killCtx, w.end.redo = context.WithCancel(w.ctx)
		}
		return
	}
	switch phase := w.pod.Status.Phase; {
	case w.removed, w.pod.DeletionTimestamp != nil:
		w.beginEnd(now, "", "", "", "")
	case phase == corev1.PodFailed || phase == corev1.PodSucceeded:
		w.beginEnd(now, "", phase, w.pod.Status.Reason, w.pod.Status.Message)
	case w.pod.Spec.ActiveDeadlineSeconds != nil && w.startTime() != nil:
		if limit := time.Duration(*w.pod.Spec.ActiveDeadlineSeconds) * time.Second; now.Sub(w.startTime().Time) >= limit {
			message := "Pod was active on the node longer than the specified deadline"
			w.k.event(w.pod, "", corev1.EventTypeNormal, "DeadlineExceeded", "%s", message)
			w.beginEnd(now, "", corev1.PodFailed, "DeadlineExceeded", message)
		}
	}
}

func (w *podWorker) beginEnd(now time.Time, kill string, phase corev1.PodPhase, reason, message string) {
	w.end = &ending{since: now, grace: w.grace(), phase: phase, reason: reason, message: message, try: retry{first: 200 * time.Millisecond, last: 30 * time.Second}}
	w.end.killCtx, w.end.redo = context.WithCancel(w.ctx)
	w.stopStart()
	_ = kill
}

// grace is how long the pod's containers have to end by themselves.
func (w *podWorker) grace() time.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if s := w.pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := w.pod.DeletionGracePeriodSeconds; s != nil && (w.pod.DeletionTimestamp != nil || w.removed) {
		seconds = *s
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

func (w *podWorker) syncEnding(now time.Time) (time.Time, bool) {
	e := w.end
	if len(w.starting) > 0 || w.boxBusy || w.volBusy {
		return time.Time{}, false // they have been told to stop
	}
	if running := w.state.running(); len(running) > 0 {
		w.stopContainers(running)
		w.report(false)
		return time.Time{}, false
	}
	if len(w.killing) > 0 {
		return time.Time{}, false
	}
	w.report(true)
	if !e.clean {
		return w.cleanUp(now), false
	}
	if w.pod.DeletionTimestamp != nil && !w.removed {
		return w.deleteFromAPI(now), false
	}
	if w.removed {
		return w.removeAll(now)
	}
	return time.Time{}, false
}

// stopContainers stops app containers together, and when they are dead the sidecars, the last first.
func (w *podWorker) stopContainers(running []*containerInfo) {
	var sidecars []*containerInfo
	apps := 0
	for _, c := range running {
		if _, kind := findContainer(w.pod, c.Metadata.Name); kind == kindSidecar {
			sidecars = append(sidecars, c)
			continue
		}
		apps++
		w.kill(c, "", w.remaining(), false)
	}
	if apps > 0 || len(sidecars) == 0 {
		return
	}
	for _, init := range slices.Backward(w.pod.Spec.InitContainers) {
		for _, c := range sidecars {
			if c.Metadata.Name == init.Name {
				w.kill(c, "", w.remaining(), false)
				return
			}
		}
	}
}

func (w *podWorker) remaining() time.Duration {
	return max(w.end.grace-time.Since(w.end.since), time.Second)
}

// kill stops one container in the background. While the pod runs, the container's waiting reason goes; it will be restarted.
func (w *podWorker) kill(c *containerInfo, message string, grace time.Duration, restart bool) {
	if w.killing[c.Id] {
		return
	}
	w.killing[c.Id] = true
	ctx := w.ctx
	if w.end != nil {
		ctx = w.end.killCtx
	} else if restart {
		ctx = w.startCtx // the pod's end comes with a grace of its own
	}
	pod, ip := w.pod, w.podIP()
	w.async(ctx, func(ctx context.Context) func() {
		err := w.k.stopContainer(ctx, pod, ip, c, message, grace)
		return func() {
			delete(w.killing, c.Id)
			w.dirty = true
			if err != nil && w.ctx.Err() == nil {
				w.k.log.Debug("Container was not stopped", "pod", klogRef(pod), "container", c.Metadata.Name, "err", err)
			}
		}
	})
}

func (w *podWorker) killGrace(k killAction) time.Duration {
	grace := w.grace()
	c, _ := findContainer(w.pod, k.Name)
	if c == nil {
		return grace
	}
	probe := c.LivenessProbe
	if k.Reason == "startup" {
		probe = c.StartupProbe
	}
	if (k.Reason == "liveness" || k.Reason == "startup") && probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(max(*probe.TerminationGracePeriodSeconds, 1)) * time.Second
	}
	return grace
}

// cleanUp takes away what the pod used: sandbox (and with it the network), volumes, cgroup. Dead containers stay for their logs.
func (w *podWorker) cleanUp(now time.Time) time.Time {
	e := w.end
	if e.busy {
		return time.Time{}
	}
	if e.try.at.After(now) {
		return e.try.at
	}
	e.busy = true
	w.dropProbes()
	var ids []string
	for _, sb := range w.state.Sandboxes {
		if sb.Ready || !e.deleted {
			ids = append(ids, sb.ID)
		}
	}
	pod := w.pod
	w.async(w.calls, func(ctx context.Context) func() {
		err := w.k.stopSandboxes(ctx, ids)
		if err == nil {
			err = w.k.volumes.tearDown(pod.UID)
		}
		if err == nil {
			err = w.k.cg.remove(string(pod.UID))
		}
		return func() {
			e.busy, w.dirty = false, true
			if err != nil {
				e.try.failed(time.Now())
				w.k.log.Warn("Pod is not cleaned up yet", "pod", klogRef(pod), "err", err)
				return
			}
			e.try.reset()
			e.clean = true
		}
	})
	return time.Time{}
}

// deleteFromAPI ends the graceful deletion once the final status is written.
func (w *podWorker) deleteFromAPI(now time.Time) time.Time {
	e := w.end
	if e.busy || e.deleted || !w.status.settled() {
		return time.Time{}
	}
	if e.try.at.After(now) {
		return e.try.at
	}
	e.busy = true
	pod := w.pod
	w.async(w.calls, func(ctx context.Context) func() {
		zero := int64(0)
		err := w.k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		return func() {
			e.busy = false
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				e.try.failed(time.Now())
				w.k.log.Debug("Pod was not deleted", "pod", klogRef(pod), "err", err)
				return
			}
			e.deleted = true
		}
	})
	return time.Time{}
}

// removeAll removes the dead containers, the sandboxes and the logs of a pod that the API no longer has.
func (w *podWorker) removeAll(now time.Time) (time.Time, bool) {
	e := w.end
	if e.busy {
		return time.Time{}, false
	}
	if len(w.state.Sandboxes) == 0 && len(w.state.Containers) == 0 {
		w.k.removeLogs(w.pod)
		return time.Time{}, true
	}
	if e.try.at.After(now) {
		return e.try.at, false
	}
	e.busy = true
	state := w.state
	w.async(w.calls, func(ctx context.Context) func() {
		err := w.k.removeState(ctx, state)
		return func() {
			e.busy, w.dirty = false, true
			if err != nil {
				e.try.failed(time.Now())
				w.k.log.Warn("Containers are not removed yet", "pod", klogRef(w.pod), "err", fmt.Errorf("remove pod %s: %w", klogRef(w.pod), err))
			}
		}
	})
	return time.Time{}, false
}
