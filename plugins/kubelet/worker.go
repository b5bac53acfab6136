package kubelet

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"keelson.dev/keelson/plugins/kit"
)

// podWorker owns one pod. All fields below the mailbox belong to the goroutine in run; others reach it by post. Slow work runs in goroutines
// begun by async, whose last act is to post their result.
type podWorker struct {
	k    *Kubelet
	uid  types.UID
	ops  sync.WaitGroup
	view atomic.Pointer[podView]

	mu    sync.Mutex // guards queue
	queue []func()
	wakes chan struct{}

	ctx       context.Context
	startCtx  context.Context // ends when the pod begins to end
	makeCtx   context.Context // likewise, and lets what was begun be finished when ctx ends
	calls     context.Context // of short work that is finished when ctx ends
	stopStart context.CancelFunc
	pod       *corev1.Pod
	known     bool // the runtime has been asked at least once
	dirty     bool // the runtime has changed since
	state     *podState
	stateTry  retry
	admitted  bool
	removed   bool // gone from the API

	volumes   map[string]mountedVolume
	volBusy   bool
	volStale  bool
	volTry    retry
	volAgain  time.Time
	boxBusy   bool
	boxTry    retry
	images    map[string]*imageState // by container
	pullTries backoff                // by image
	starting  map[string]bool        // by container
	startTry  map[string]*retry
	killing   map[string]bool // by container ID
	waiting   map[string]waitReason
	crashes   backoff            // by container and hash
	probes    map[string]*probed // by container ID
	seeded    map[string]bool

	end      *ending // set once the pod is to end
	status   *statusWriter
	computed *corev1.PodStatus
	noticed  map[string]bool // events sent once per cause
}

// podView is what other goroutines may read of a pod.
type podView struct {
	Pod    *corev1.Pod
	Status *corev1.PodStatus
	State  *podState
	Ended  bool
}

func newPodWorker(k *Kubelet, pod *corev1.Pod) *podWorker {
	w := &podWorker{k: k, uid: pod.UID, pod: pod, wakes: make(chan struct{}, 1), dirty: true, state: &podState{Containers: map[string][]*containerInfo{}},
		images: map[string]*imageState{}, pullTries: backoff{}, starting: map[string]bool{}, startTry: map[string]*retry{}, killing: map[string]bool{},
		waiting: map[string]waitReason{}, crashes: backoff{}, probes: map[string]*probed{}, seeded: map[string]bool{}, noticed: map[string]bool{},
		stateTry: retry{first: 100 * time.Millisecond, last: 5 * time.Second},
		volTry:   retry{first: 500 * time.Millisecond, last: 2 * time.Minute},
		boxTry:   retry{first: time.Second, last: time.Minute}}
	w.status = newStatusWriter(k, pod, w)
	return w
}

// run is the worker's goroutine. It returns when the pod is gone for good, or ctx ends.
func (w *podWorker) run(ctx context.Context) {
	defer w.begin(ctx)()
	ctx = w.ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for _, f := range w.take() {
			f()
		}
		if ctx.Err() != nil {
			return
		}
		wake, done := w.sync()
		w.view.Store(&podView{Pod: w.pod, Status: w.computed, State: w.state, Ended: w.end != nil && w.end.clean})
		if done {
			return
		}
		wait := 10 * time.Minute
		if !wake.IsZero() {
			wait = max(time.Until(wake), time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-w.wakes:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// begin makes the contexts. The function returned ends them and waits for all that was
// begun: at the end of a pod it stops, at the end of ctx what is short is finished.
func (w *podWorker) begin(ctx context.Context) (end func()) {
	calls, endCalls := kit.FinishCalls(ctx)
	now, endNow := context.WithCancel(ctx)
	startCtx, stopStart := context.WithCancel(now)
	makeCtx, stopMake := context.WithCancel(calls)
	w.ctx, w.calls, w.startCtx, w.makeCtx = now, calls, startCtx, makeCtx
	w.stopStart = func() { stopStart(); stopMake() }
	return func() {
		if ctx.Err() == nil {
			stopMake()
			endCalls()
		}
		stopStart()
		endNow()
		w.ops.Wait()
		stopMake()
		endCalls()
	}
}

// post hands a change to the worker. It never blocks.
func (w *podWorker) post(f func()) {
	w.mu.Lock()
	w.queue = append(w.queue, f)
	w.mu.Unlock()
	select {
	case w.wakes <- struct{}{}:
	default:
	}
}

func (w *podWorker) take() []func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q
}

// async runs slow work; what it returns is run in the worker's goroutine.
func (w *podWorker) async(ctx context.Context, work func(ctx context.Context) func()) {
	w.ops.Go(func() { w.post(work(ctx)) })
}

// update hands in the pod as the API has it.
func (w *podWorker) update(pod *corev1.Pod) {
	w.post(func() {
		if older(pod, w.pod) {
			return
		}
		if pod.Generation != w.pod.Generation || !sameMeta(pod, w.pod) {
			w.referencesChanged()
		}
		w.pod = pod
		w.status.observed(pod)
	})
}

func sameMeta(a, b *corev1.Pod) bool {
	return formatMap(a.Labels) == formatMap(b.Labels) && formatMap(a.Annotations) == formatMap(b.Annotations)
}

// remove tells that the API no longer has the pod.
func (w *podWorker) remove(pod *corev1.Pod) {
	w.post(func() {
		w.removed = true
		if !older(pod, w.pod) {
			w.pod = pod
		}
	})
}

// referencesChanged makes the worker try again what may have failed for want of a secret or config map, and refresh volumes.
func (w *podWorker) referencesChanged() {
	w.volStale = true
	w.volTry.reset()
	for _, t := range w.startTry {
		t.reset()
	}
}

func older(a, b *corev1.Pod) bool {
	av, aerr := strconv.ParseUint(a.ResourceVersion, 10, 64)
	bv, berr := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return aerr == nil && berr == nil && av < bv
}

// sync brings the pod one step closer to what it should be. It returns when to look again if nothing happens before, and whether all is done.
func (w *podWorker) sync() (wake time.Time, done bool) {
	now := time.Now()
	if w.dirty {
		if w.stateTry.at.After(now) {
			return w.stateTry.at, false
		}
		err := w.k.knowRuntime(w.ctx)
		var state *podState
		if err == nil {
			state, err = w.k.cri.readPodState(w.ctx, w.uid, w.state)
		}
		if err != nil {
			w.stateTry.failed(now)
			w.k.log.Debug("Runtime does not answer", "pod", klogRef(w.pod), "err", err)
			return w.stateTry.at, false
		}
		w.stateTry.reset()
		w.state, w.dirty, w.known = state, false, true
		w.watchContainers()
		w.collectDead()
	}
	w.decideEnd(now)
	if w.end == nil {
		wake = w.syncRunning(now)
	}
	if w.end != nil {
		wake, done = w.syncEnding(now)
	}
	return wake, done
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func klogRef(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }
