package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// supervisor makes what is wanted of a unit so. It has the unit's goroutine; its sessions
// have one each and tell it what happens to them. Each step looks at what is wanted and
// what is, and does what follows; nothing but calls of a plugin that changes over waits.
type supervisor struct {
	*unit
	ctx    context.Context
	events chan sessionEvent
	alive  map[*session]bool // whose last event has not come

	// current is what is active or should be; nil: nothing was started yet. active is its
	// process, also while it starts; nil: none.
	current *target
	active  *session
	// candidate is to take the active one's place.
	candidate *session
	// trial is not nil while a session that has taken over is watched; standby is the process
	// before it, if it is still there.
	trial   *trial
	standby *session
	// lingering were replaced, and serve the streams that they have open.
	lingering []*session
	// next takes over when the active one has ended (Spec.Restart).
	next *target

	// failed is the revision that is not tried again, what became of it and why.
	failed        string
	failedOutcome Outcome
	failedWhy     string

	backoff  backoff
	retryAt  time.Time // of a direct start
	stuck    bool      // no direct start until something is changed
	endedAt  time.Time // when the active one ended
	settleAt time.Time // when sockets that nobody asked for are closed; zero: they are
	starts   int       // direct starts
	handled  wish      // of which restarts and retries have been seen to

	// adopted: its processes are an earlier host's; turn: it may swap now, see turns
	adopted, turn bool
	// later are events that wait until all processes are taken over
	later []sessionEvent
	// leaveBy is when a host that hands over stops to wait for processes that are ending
	leaveBy time.Time
}

// trial is the time after a change over.
type trial struct {
	before target // what to go back to
	// strict says that the one before was ready, so that this one has to be.
	strict, ready     bool
	since             time.Time
	until, readyUntil time.Time // zero before it is active
	gapFrom           time.Time // since when nobody is active
	gap               time.Duration
}

func newSupervisor(ctx context.Context, u *unit) *supervisor {
	v := &supervisor{unit: u, ctx: ctx, events: make(chan sessionEvent), alive: map[*session]bool{}}
	w := u.wanted()
	v.handled = w
	if p := u.inherited; p != nil {
		v.takeUp(p)
	} else if r := w.spec.Restore; r != nil {
		v.restore(r)
	}
	return v
}

// restore takes up what an earlier host left.
func (v *supervisor) restore(r *Restore) {
	v.mu.Lock()
	v.status.History = &History{Revisions: r.History}
	v.mu.Unlock()
	if r.Active == nil || v.host.Revision(*r.Active) != r.Revision {
		return
	}
	v.current = &target{spec: *r.Active, revision: r.Revision, good: true}
	v.failed, v.failedOutcome, v.failedWhy = r.Failed, r.FailedOutcome, r.FailedMessage
}

// run supervises until the host ends or the unit is removed, and all processes have ended.
func (v *supervisor) run() {
	defer v.log.close()
	for !v.step() {
		timer, stop := v.alarm()
		select {
		case e := <-v.events:
			v.take(e)
		case <-v.changed:
		case <-timer:
		case <-v.stopping():
		}
		stop()
	}
}

// stopping is the end of the host, until it has been seen.
func (v *supervisor) stopping() <-chan struct{} {
	if v.ctx.Err() != nil {
		return nil
	}
	return v.ctx.Done()
}

// alarm is the next time at which something is due.
func (v *supervisor) alarm() (<-chan time.Time, func()) {
	var at time.Time
	due := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if v.active == nil && !v.stuck && time.Until(v.retryAt) > 0 { // else it waits for an event
		due(v.retryAt)
	}
	if v.candidate != nil && v.candidate.prepared && v.candidate.state != pluginv1.State_STATE_STANDBY {
		due(v.candidate.since.Add(v.host.cfg.Periods.Standby))
	}
	if t := v.trial; t != nil && t.strict && !t.ready {
		due(t.readyUntil)
	} else if t != nil {
		due(t.until)
	}
	if v.trial == nil && v.candidate == nil && v.active != nil && v.active.active {
		due(v.settleAt)
	}
	for _, s := range v.lingering {
		due(s.until)
	}
	due(v.leaveBy)
	if at.IsZero() {
		return nil, func() {}
	}
	timer := time.NewTimer(time.Until(at))
	return timer.C, func() { timer.Stop() }
}

// step does what is to be done now. True: the unit's work is over.
func (v *supervisor) step() bool {
	w := v.wanted()
	if v.handingOver() {
		return v.handOver()
	}
	if v.ctx.Err() != nil || w.removed || !w.spec.Enabled {
		return v.windDown(w)
	}
	want := target{spec: w.spec, revision: v.host.Revision(w.spec)}
	if w.restarts != v.handled.restarts {
		v.restartNow()
	}
	if w.retries != v.handled.retries {
		v.failed = ""
	}
	v.handled = w
	if !v.holding() {
		v.decide(want)
	}
	v.due()
	v.endTurn(want)
	v.tend(w.spec)
	v.show(want)
	return false
}

// windDown ends all processes. True: the unit is not to be looked after any more.
func (v *supervisor) windDown(w wish) bool {
	v.handled = w
	v.giveTurn()
	v.rested.Store(true)
	for s := range v.alive {
		if !s.leaving {
			s.end()
		}
	}
	v.active, v.candidate, v.standby, v.lingering, v.trial, v.next = nil, nil, nil, nil, nil, nil
	v.settleAt = time.Time{}
	gone := v.dismissShadow()
	if len(v.alive) > 0 || !gone {
		return false
	}
	v.sockets.keepFor()
	v.update(func(s *Status) { s.Phase, s.PID, s.Message, s.Candidate = PhaseStopped, 0, "", Candidate{} })
	if v.ctx.Err() != nil {
		return true
	}
	v.current, v.failed, v.stuck, v.retryAt = nil, "", false, time.Time{}
	v.backoff.reset()
	over := w.removed && v.host.forget(v.unit)
	if over {
		v.endShadow()
	}
	return over
}

// restartNow ends the active process, or does not wait for its next start.
func (v *supervisor) restartNow() {
	v.backoff.reset()
	v.stuck, v.retryAt = false, time.Time{}
	if v.active != nil && !v.active.leaving {
		v.active.end()
	}
}

// begin starts a session.
func (v *supervisor) begin(t target, direct bool) *session {
	s := v.session(t, direct)
	v.launch(s)
	return s
}

// session prepares one.
func (v *supervisor) session(t target, direct bool) *session {
	return &session{
		unit: v.unit, target: t, direct: direct, renewals: make(chan struct{}, 1),
		notify: func(e sessionEvent) { v.events <- e }, over: v.ctx.Done(), begun: time.Now(), since: time.Now(), watchFor: t.spec.Watch,
	}
}

// launch starts a session's goroutine.
func (v *supervisor) launch(s *session) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(v.ctx))
	s.cancel = cancel
	v.alive[s] = true
	v.mu.Lock()
	v.unit.live = append(v.unit.live, s)
	v.mu.Unlock()
	go func() { // ends with the session; run waits for its last event
		err := s.live(ctx)
		cancel(nil)
		s.notify(sessionEvent{session: s, kind: sessionEnded, err: err})
	}()
}

// start starts the current revision as the active one.
func (v *supervisor) start() {
	v.active = v.begin(*v.current, true)
	v.update(func(s *Status) {
		s.Phase, s.PID, s.Message, s.Revision = PhaseStarting, 0, "", v.current.revision
		s.Restarts = v.starts
	})
	v.starts++
}

// handle takes in what a session tells.
func (v *supervisor) handle(e sessionEvent) {
	s := e.session
	switch e.kind {
	case sessionLaunched:
		if err := s.body.unset(); err != nil {
			v.slog.Warn("Limits of plugin are not in force", "err", err)
			v.event(true, EventLimitNotSet, "%v", err)
		}
		if s == v.active {
			v.update(func(st *Status) {
				st.PID, st.InProcess, st.StartedAt, st.Protocol = s.body.pid(), s.body.inProcess(), s.started, s.version
			})
		}
	case sessionPrepared:
		s.prepared, s.since = true, time.Now()
		if s == v.active {
			s.active = true
			v.activated()
		}
	case sessionReported:
		if s == v.candidate && e.report.GetState() == pluginv1.State_STATE_STANDBY && s.state != e.report.GetState() {
			s.since = time.Now()
		}
		s.state, s.message, s.streams = e.report.GetState(), e.report.GetMessage(), e.report.GetOpenStreams()
		v.dismissIdle(s)
		if s == v.active {
			v.reported(s)
		}
	case sessionHangs:
		v.hangs(s, e.err)
	case sessionAdopted:
		v.adoptedNow(s)
	case sessionEnded:
		v.ended(s, e.err)
	}
}

// hangs tells of a plugin in this process that goes on although it was killed. It stays
// among the living, so that nothing is started in its place before it has ended.
func (v *supervisor) hangs(s *session, err error) {
	why := fmt.Errorf("revision %s does not end, and nothing can end it, as it is %s: restart the kernel", s.target.revision, s.body)
	if err != nil {
		why = fmt.Errorf("%w (%w)", why, err)
	}
	v.slog.Error("Plugin hangs in the kernel's process", "revision", s.target.revision, "err", why)
	v.event(true, EventHanging, "%v", why)
	switch {
	case s == v.candidate:
		v.candidate = nil
		v.refuse(s, why)
	case v.active == nil || s == v.active:
		s.leaving = true
		v.update(func(st *Status) { st.Phase, st.Message, st.LastError = PhaseFailed, "", why.Error() })
	}
}

// describeActive puts what the active one says of itself in the status.
func (v *supervisor) describeActive() {
	s := v.active
	d := s.description
	v.update(func(st *Status) {
		st.PID, st.InProcess, st.StartedAt, st.Protocol = s.body.pid(), s.body.inProcess(), s.started, s.version
		st.Version, st.Description, st.Revision, st.NotAccepted = d.Version, &d, s.target.revision, ""
	})
}

// activated is called when a direct session has been activated.
func (v *supervisor) activated() {
	v.describeActive()
	now := time.Now()
	gap := time.Duration(-1)
	if t := v.trial; t != nil {
		if t.readyUntil.IsZero() {
			t.gap = now.Sub(t.gapFrom)
			gap = t.gap
			v.remember(gap)
		}
		v.watchTrial()
	} else if h := v.getStatus().History; h == nil || len(h.Revisions) == 0 || h.Revisions[0].Revision != v.current.revision || h.Revisions[0].Outcome != OutcomeActive {
		if v.failed == "" { // after a rollback the entry of the failed one stays in front
			v.remember(gap)
		}
	}
	v.settleAt = now.Add(max(v.current.spec.Watch, time.Second))
}

// remember puts the active one in front of the history.
func (v *supervisor) remember(gap time.Duration) {
	v.update(func(s *Status) {
		s.History = s.History.with(Revision{
			Revision: v.current.revision, Generation: v.current.spec.Generation, Version: v.active.description.Version,
			Outcome: OutcomeActive, Start: time.Now(), Gap: gap, Spec: v.current.spec,
		})
	})
}

// reported notes what the active one says of itself.
func (v *supervisor) reported(s *session) {
	phase := PhaseStarting
	switch s.state {
	case pluginv1.State_STATE_READY:
		phase = PhaseRunning
	case pluginv1.State_STATE_DEGRADED:
		phase = PhaseDegraded
	}
	before := v.getStatus().Phase
	v.update(func(st *Status) { st.Phase, st.Message = phase, s.message })
	switch {
	case phase == PhaseRunning && !s.seenReady:
		s.seenReady = true
		v.slog.Info("Plugin runs", "pid", s.body.pid(), "after", time.Since(s.started).Round(time.Millisecond))
		if v.trial == nil {
			v.event(false, EventStarted, "revision %s runs as %s, %s after its start", s.target.revision, s.body,
				time.Since(s.started).Round(time.Millisecond))
		}
	case phase == PhaseDegraded && before != phase:
		v.slog.Warn("Plugin is degraded", "reason", s.message)
	}
	v.judge(s, phase)
}

// ended takes leave of a session.
func (v *supervisor) ended(s *session, err error) {
	delete(v.alive, s)
	if !errIsDetached(err) {
		v.lingering = without(v.lingering, s)
	}
	v.mu.Lock()
	for i, l := range v.unit.live {
		if l == s {
			v.unit.live = append(v.unit.live[:i:i], v.unit.live[i+1:]...)
			break
		}
	}
	v.mu.Unlock()
	if errIsDetached(err) {
		s.detached()
		return
	}
	switch s {
	case v.candidate:
		v.candidate = nil
		if err != nil {
			v.refuse(s, err)
		}
	case v.standby:
		v.standby = nil
		v.slog.Info("The process that was replaced has ended", "err", err)
	case v.active:
		v.active, v.endedAt = nil, time.Now()
		switch {
		case err == nil || errors.Is(err, errOutdated): // asked to end
			v.backoff.reset()
			v.retryAt = time.Time{}
			v.update(func(st *Status) { st.Phase, st.PID, st.Message = PhaseStarting, 0, "" })
		case v.trial != nil:
			v.rollback(err)
		default:
			v.fail(s, err)
		}
	}
	if v.active != nil && len(v.alive) == 1 && v.active.active {
		v.narrow(v.ctx, v.active)
	}
}

// fail notes why the active plugin does not run, and when it is started again.
func (v *supervisor) fail(s *session, err error) {
	phase, wait := PhaseBackOff, time.Duration(0)
	if final, ok := errors.AsType[*permanentError](err); ok {
		phase, wait = PhaseFailed, final.again
	} else {
		wait = v.backoff.next(time.Since(s.begun))
	}
	v.stuck = wait < 0
	v.retryAt = time.Now().Add(wait)
	if old := v.getStatus(); old.Phase != PhaseFailed || old.LastError != err.Error() {
		v.slog.Error("Plugin does not run", "phase", phase, "restartIn", wait.Round(time.Millisecond), "err", err)
		if phase == PhaseFailed {
			v.event(true, EventFailed, "%v", err)
		} else {
			v.event(true, EventBackOff, "started again in %s: %v", wait.Round(time.Millisecond), err)
		}
	}
	v.update(func(st *Status) {
		st.Phase, st.PID, st.Message, st.LastError = phase, 0, "", err.Error()
		if refused, ok := errors.AsType[*notAcceptedError](err); ok {
			st.NotAccepted = refused.missing
		}
		if s.description.Name != "" {
			d := s.description
			st.Version, st.Description = d.Version, &d
		}
	})
}
