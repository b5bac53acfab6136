package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// syncRunning does the next steps for a pod that is to run.
func (w *podWorker) syncRunning(now time.Time) time.Time {
	if !w.admitted {
		if reason, message, ok := w.k.admit(w.pod, w.state); !ok {
			w.k.event(w.pod, "", corev1.EventTypeWarning, reason, "%s", message)
			w.beginEnd(now, "", corev1.PodFailed, reason, message)
			return time.Time{}
		}
		w.admitted = true
		w.k.metrics.observeSeen(w.pod)
	}
	busy := map[string]bool{}
	for name := range w.starting {
		busy[name] = true
	}
	for name, list := range w.state.Containers {
		for _, c := range list {
			if w.killing[c.Id] {
				busy[name] = true
			}
		}
	}
	a := computeActions(actionInput{Pod: w.pod, State: w.state, Now: now, RestartAt: w.restartAt, Started: w.isStarted,
		Liveness: func(id string) probeResult { return w.result(id).liveness },
		Startup:  func(id string) probeResult { return w.result(id).startup }, Busy: busy})
	if a.Finished && len(w.starting) == 0 && len(w.killing) == 0 {
		w.beginEnd(now, "", "", "", "")
		return time.Time{}
	}
	w.noteCrashes(&a)
	wake := earlier(a.WakeAt, w.syncVolumes(now))
	for _, k := range a.Kill {
		w.kill(k.Container, k.Message, w.killGrace(k), true)
	}
	wake = earlier(wake, w.syncSandbox(now, &a))
	for _, s := range a.Start {
		wake = earlier(wake, w.startOne(now, s))
	}
	if d := w.pod.Spec.ActiveDeadlineSeconds; d != nil && w.startTime() != nil {
		wake = earlier(wake, w.startTime().Add(time.Duration(*d)*time.Second))
	}
	w.report(false)
	return wake
}

func (w *podWorker) startTime() *metav1.Time {
	if w.computed != nil && w.computed.StartTime != nil {
		return w.computed.StartTime
	}
	return w.pod.Status.StartTime
}

func crashKey(pod *corev1.Pod, name string) string {
	c, _ := findContainer(pod, name)
	if c == nil {
		return name
	}
	return name + "/" + containerHash(c)
}

func (w *podWorker) restartAt(name string, ended time.Time) time.Time {
	key := crashKey(w.pod, name)
	// A container that ended with its sandbox (a reboot, keelson down) did not crash.
	sandbox := w.state.readySandbox()
	if last := w.state.newest(name); last != nil && !w.seeded[key] && sandbox != nil && last.SandboxID == sandbox.ID {
		w.crashes.seed(key, last.restartCount(), time.Unix(0, last.StartedAt))
	}
	w.seeded[key] = true
	return w.crashes.due(key, ended)
}

// noteCrashes keeps the reasons of containers that wait for their back-off.
func (w *podWorker) noteCrashes(a *actions) {
	for name, r := range w.waiting {
		if _, still := a.Crashing[name]; r.Reason == "CrashLoopBackOff" && !still {
			delete(w.waiting, name)
		}
	}
	for name := range a.Crashing {
		delay := w.crashes.delay(crashKey(w.pod, name))
		message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, name, podRef(w.pod))
		w.waiting[name] = waitReason{"CrashLoopBackOff", message}
		if id := w.state.newest(name).Id; !w.noticed["crash/"+id] {
			w.noticed["crash/"+id] = true
			w.k.event(w.pod, name, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", name, podRef(w.pod))
		}
	}
}

// syncVolumes makes the volumes, and refreshes them when something they show has changed.
func (w *podWorker) syncVolumes(now time.Time) time.Time {
	due := w.volumes == nil || w.volStale || !w.volAgain.IsZero() && !now.Before(w.volAgain)
	if w.volBusy {
		return time.Time{}
	}
	if !due {
		return w.volAgain
	}
	if w.volTry.at.After(now) {
		return w.volTry.at
	}
	w.volBusy, w.volStale = true, false
	pod := w.pod
	w.async(w.startCtx, func(ctx context.Context) func() {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		vols, again, err := w.k.volumes.setUp(ctx, pod)
		return func() {
			w.volBusy = false
			if err != nil {
				w.volTry.failed(time.Now())
				if w.volumes != nil {
					w.volStale = true // what was there stays; try again
				}
				if w.end == nil && !errors.Is(err, context.Canceled) {
					w.k.event(pod, "", corev1.EventTypeWarning, "FailedMount", "%v", err)
				}
				return
			}
			w.volTry.reset()
			w.volumes, w.volAgain = vols, again
		}
	})
	return time.Time{}
}

// syncSandbox stops stale sandboxes and makes a new one when the volumes are there; images are got ready meanwhile.
func (w *podWorker) syncSandbox(now time.Time, a *actions) time.Time {
	if w.boxBusy {
		return time.Time{}
	}
	if len(a.StopSandboxes) > 0 {
		w.boxBusy = true
		ids := a.StopSandboxes
		w.async(w.makeCtx, func(ctx context.Context) func() {
			err := w.k.stopSandboxes(ctx, ids)
			return func() { w.boxDone(err) }
		})
		return time.Time{}
	}
	if !a.CreateSandbox || w.volumes == nil {
		return time.Time{}
	}
	wake := w.prepareFirst(now)
	if w.boxTry.at.After(now) {
		return earlier(wake, w.boxTry.at)
	}
	w.boxBusy = true
	pod, attempt := w.pod, a.SandboxAttempt
	if attempt > 0 && !w.noticed[fmt.Sprint("sandbox/", attempt)] {
		w.noticed[fmt.Sprint("sandbox/", attempt)] = true
		w.k.event(pod, "", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	w.async(w.makeCtx, func(ctx context.Context) func() {
		err := w.k.createSandbox(ctx, pod, attempt)
		return func() {
			if err != nil && w.end == nil {
				w.k.event(pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
			}
			w.boxDone(err)
		}
	})
	return wake
}

func (w *podWorker) boxDone(err error) {
	w.boxBusy, w.dirty = false, true
	if err != nil {
		w.boxTry.failed(time.Now())
		w.k.log.Debug("Sandbox operation did not succeed", "pod", klogRef(w.pod), "err", err)
		return
	}
	w.boxTry.reset()
}

// prepareFirst gets the images ready that are needed as soon as the sandbox is there.
func (w *podWorker) prepareFirst(now time.Time) (wake time.Time) {
	if len(w.pod.Spec.InitContainers) > 0 {
		_, wake = w.imageFor(now, &w.pod.Spec.InitContainers[0])
		return wake
	}
	for i := range w.pod.Spec.Containers {
		_, at := w.imageFor(now, &w.pod.Spec.Containers[i])
		wake = earlier(wake, at)
	}
	return wake
}

// startOne starts a container as soon as its image is there.
func (w *podWorker) startOne(now time.Time, s startAction) time.Time {
	name := s.Container.Name
	sandbox := w.state.readySandbox()
	if w.starting[name] || w.volumes == nil || sandbox == nil {
		return time.Time{}
	}
	try := w.startTry[name]
	if try == nil {
		try = &retry{first: time.Second, last: time.Minute}
		w.startTry[name] = try
	}
	if try.at.After(now) {
		return try.at
	}
	image, wake := w.imageFor(now, s.Container)
	if image == nil {
		return wake
	}
	delete(w.images, name)
	if w.waiting[name].Reason != "CreateContainerConfigError" && w.waiting[name].Reason != "CreateContainerError" {
		delete(w.waiting, name)
	}
	if s.Last.exited() {
		w.crashes.next(crashKey(w.pod, name), time.Unix(0, s.Last.FinishedAt), now)
	}
	w.starting[name] = true
	req := startRequest{pod: w.pod, action: s, image: image, sandbox: sandbox, volumes: w.volumes, target: w.state.newest(s.Target)}
	w.async(w.makeCtx, func(ctx context.Context) func() {
		id, err := w.k.startContainer(ctx, req, func() { w.post(func() { w.dirty = true }) })
		return func() {
			delete(w.starting, name)
			w.dirty = true
			var failed *startError
			switch {
			case err == nil:
				try.reset()
				delete(w.waiting, name)
				w.k.metrics.containerStarts.Inc()
			case errors.As(err, &failed) && w.end == nil:
				try.failed(time.Now())
				w.waiting[name] = waitReason{failed.reason, failed.message}
			default:
				try.failed(time.Now())
			}
			_ = id
		}
	})
	return time.Time{}
}

// collectDead removes dead containers beyond the last one (kept for its logs), and sandboxes that hold nothing any more.
func (w *podWorker) collectDead() {
	used := map[string]bool{}
	for _, list := range w.state.Containers {
		for i, c := range list {
			if i < 2 || !c.exited() || w.killing[c.Id] {
				used[c.SandboxID] = true
				continue
			}
			w.async(w.calls, func(ctx context.Context) func() {
				w.k.removeContainer(ctx, c)
				return func() {}
			})
		}
	}
	for i, sb := range w.state.Sandboxes {
		if i > 0 && !sb.Ready && !used[sb.ID] {
			w.async(w.calls, func(ctx context.Context) func() {
				w.k.removeSandbox(ctx, sb.ID)
				return func() {}
			})
		}
	}
}

// report computes the status and hands it to the writer.
func (w *podWorker) report(ended bool) {
	if !w.known {
		return
	}
	in := statusInput{Pod: w.pod, Old: w.status.base(w.computed), State: w.state, Waiting: w.waiting, Starting: w.starting, Ready: w.isReady, Started: w.isStarted,
		HostIPs: w.k.hostIPs, RuntimeName: w.k.runtimeName(), Ended: ended, Now: metav1.Now().Rfc3339Copy()}
	if w.end != nil {
		in.Phase, in.Reason, in.Message = w.end.phase, w.end.reason, w.end.message
		in.Waiting = nil
	}
	s := computeStatus(in)
	w.computed = &s
	w.status.set(&s)
}
