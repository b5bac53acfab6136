package pluginhost

import (
	"errors"
	"fmt"
	"time"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// decide chooses what should run: what is wanted, or a candidate for it beside what runs.
func (v *supervisor) decide(want target) {
	switch {
	case v.current == nil:
		v.current = &want
		return
	case want.revision == v.current.revision:
		want.good, want.binary = v.current.good, v.current.binary
		v.current = &want // what is no part of the revision may have changed
		v.drop()
		v.failed = ""
		if v.next != nil && v.next.revision != want.revision {
			v.next = nil // asked back before it had begun
		}
		return
	case want.revision == v.failed:
		v.drop()
		return
	case v.next != nil: // the active one is ending already
		v.next = &want
		return
	case v.candidate != nil && v.candidate.target.revision == want.revision:
		v.candidate.watchFor = want.spec.Watch
		return
	}
	if !v.takeTurn(want) {
		return
	}
	v.failed = ""
	v.drop()
	if t := v.trial; t != nil {
		if t.strict && !t.ready {
			v.rollback(errors.New("the spec was changed before it was ready"))
			v.failed = ""
		}
		v.settle()
	}
	switch {
	case v.active == nil && !v.current.good: // it never worked: there is nothing to keep
		v.current, v.stuck, v.retryAt = &want, false, time.Time{}
		v.backoff.reset()
	case want.spec.Restart:
		v.next = &want
	case v.present() == 0 || v.present() == 1 && v.active != nil: // else one is still leaving
		v.candidate = v.begin(want, false)
		v.slog.Info("A candidate is started", "revision", want.revision, "active", v.current.revision)
		v.event(false, EventSwapStarted, "revision %s is started beside %s", want.revision, v.current.revision)
	}
}

// drop ends a candidate that nobody wants any more.
func (v *supervisor) drop() {
	if v.candidate != nil {
		v.candidate.end()
		v.candidate = nil
	}
}

// due does what it is time for.
func (v *supervisor) due() {
	now := time.Now()
	passed := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	if t := v.trial; t != nil {
		switch {
		case t.strict && !t.ready && passed(t.readyUntil):
			v.rollback(fmt.Errorf("it was not ready within %s: %s", v.host.cfg.Periods.Ready, v.wordsOf(v.active)))
		case (t.ready || !t.strict) && passed(t.until):
			v.settle()
		}
	}
	if passed(v.settleAt) && v.trial == nil && v.candidate == nil && v.active != nil && v.active.active {
		v.settleAt = time.Time{}
		v.sockets.keepFor(v.active.body.id())
	}
	if c := v.candidate; c != nil && c.prepared {
		switch {
		case c.state != pluginv1.State_STATE_STANDBY:
			if passed(c.since.Add(v.host.cfg.Periods.Standby)) {
				v.candidate = nil
				c.endNow()
				v.refuse(c, fmt.Errorf("it did not get to STANDBY within %s: %s", v.host.cfg.Periods.Standby, v.wordsOf(c)))
			}
		case v.active == nil || v.active.active && !v.active.leaving:
			v.takeOver()
		case !v.active.leaving: // it only starts
			v.active.leaving = true
			v.active.cancel(errKill)
		}
	}
	if v.next != nil {
		v.changeInPlace()
	}
	v.dismissLate(now)
	others := v.present()
	for _, s := range []*session{v.candidate, v.standby} {
		if s != nil {
			others--
		}
	}
	if v.active == nil && others == 0 && !v.stuck && !now.Before(v.retryAt) {
		v.start()
	}
}

// wordsOf is what a session says of itself.
func (v *supervisor) wordsOf(s *session) string {
	if s == nil || s.state == pluginv1.State_STATE_UNSPECIFIED {
		return "it reported nothing"
	}
	text := "it reports " + s.state.String()[len("STATE_"):]
	if s.message != "" {
		text += ": " + s.message
	}
	return text
}

// changeInPlace ends the active one and then has the next one started.
func (v *supervisor) changeInPlace() {
	if v.active != nil {
		if !v.active.leaving {
			v.event(false, EventSwapStarted, "revision %s is started when %s has ended", v.next.revision, v.current.revision)
			v.endedAt = time.Now()
			v.active.end()
		}
		return
	}
	if v.present() > 0 {
		return
	}
	if v.current.good {
		v.trial = &trial{before: *v.current, strict: true, since: time.Now(), gapFrom: v.endedAt}
	}
	v.current, v.next = v.next, nil
	v.stuck, v.retryAt = false, time.Time{}
	v.backoff.reset()
}

// takeOver puts the candidate in the place of the active one.
func (v *supervisor) takeOver() {
	old, next := v.active, v.candidate
	before := *v.current
	strict := before.good
	from := v.endedAt
	asked := time.Now()
	if old != nil {
		strict = old.state == pluginv1.State_STATE_READY
		err := old.deactivate(v.ctx)
		if v.ctx.Err() != nil {
			return // all is going to end
		}
		if err != nil {
			v.slog.Warn("Plugin is killed: it does not give way", "pid", old.body.pid(), "err", err)
			v.event(true, EventKilling, "%s of revision %s is killed: %v", old.body, before.revision, err)
			if !old.endNow() {
				return // there are never two that act: the candidate waits for its end
			}
		}
		from = time.Now()
		old.active = false
	}
	v.active, v.candidate = nil, nil
	err := next.activate(v.ctx)
	gap := time.Since(from)
	if err != nil {
		if v.ctx.Err() != nil {
			return
		}
		if !next.endNow() {
			old = v.release(old)
		}
		v.note(next, next.explain(err), OutcomeRolledBack)
		v.update(func(s *Status) {
			s.History = s.History.change(next.target.revision, func(r *Revision) { r.Start, r.Gap = from, gap })
		})
		v.comeBack(old, before)
		return
	}
	next.active = true
	v.active, v.current = next, &target{spec: next.target.spec, revision: next.target.revision}
	v.current.spec.Watch = next.watchFor
	v.describeActive()
	v.remember(gap)
	v.update(func(s *Status) { s.Phase, s.Message = PhaseStarting, "" })
	v.failed, v.stuck = "", false
	v.backoff.reset()
	v.slog.Info("Plugin is swapped", "revision", next.target.revision, "before", before.revision, "pid", next.body.pid(),
		"finished", max(from.Sub(asked), 0), "gap", gap)
	v.settleAt = time.Now().Add(max(next.watchFor, time.Second))
	if next.watchFor <= 0 || !before.good {
		if old != nil && !old.leaving {
			v.retire(old)
		}
		v.swapped(gap, before.revision)
		return
	}
	if old != nil && !old.leaving {
		v.standby = old
	}
	v.trial = &trial{before: before, strict: strict, since: time.Now(), gap: gap}
	v.watchTrial()
}

func (v *supervisor) swapped(gap time.Duration, before string) {
	v.event(false, EventSwapped, "revision %s has taken the place of %s after a gap of %s", v.current.revision, before, gap.Round(10*time.Microsecond))
}

// watchTrial begins to watch the one that has become active.
func (v *supervisor) watchTrial() {
	now := time.Now()
	v.trial.until, v.trial.readyUntil = now.Add(v.current.spec.Watch), now.Add(v.host.cfg.Periods.Ready)
}

// judge decides about the active one by what it reports.
func (v *supervisor) judge(s *session, phase Phase) {
	t := v.trial
	if t == nil {
		v.current.good = v.current.good || phase == PhaseRunning || phase == PhaseDegraded
		return
	}
	switch {
	case phase == PhaseDegraded && t.strict && s.seenReady:
		v.rollback(fmt.Errorf("it is degraded: %s", s.message))
	case phase == PhaseRunning || phase == PhaseDegraded && !t.strict:
		v.current.good = true
		if !t.ready {
			t.ready = true
			v.swapped(t.gap, t.before.revision)
		}
	}
}

// settle ends the watch period: what was replaced is not needed any more.
func (v *supervisor) settle() {
	if v.standby != nil {
		v.retire(v.standby)
		v.standby = nil
	}
	if t := v.trial; t != nil && !t.ready && v.active != nil {
		v.swapped(t.gap, t.before.revision)
	}
	v.trial = nil
}

// rollback puts what was before in the place of the active one, which has ended or is bad.
func (v *supervisor) rollback(why error) {
	t, bad, old := v.trial, v.active, v.standby
	v.trial, v.active, v.standby = nil, nil, nil
	failing := &session{target: *v.current, begun: time.Now()}
	if bad != nil {
		failing = bad
		gone := true
		if old != nil && bad.active {
			if err := bad.deactivate(v.ctx); err != nil {
				gone = bad.endNow()
			} else {
				v.retire(bad)
			}
		} else if bad.prepared {
			gone = bad.endNow()
		} else {
			bad.leaving = true
			bad.cancel(errKill)
		}
		if !gone {
			old = v.release(old)
		}
		v.endedAt = time.Now()
	}
	v.note(failing, why, OutcomeRolledBack)
	v.comeBack(old, t.before)
}

// release ends the process before when it cannot come back, as the one after it hangs: a
// new one is started when that has ended. It returns nil.
func (v *supervisor) release(old *session) *session {
	if old != nil && !old.leaving {
		old.end()
	}
	return nil
}

// comeBack makes the one before active again: its process, or a new one.
func (v *supervisor) comeBack(old *session, before target) {
	before.good = true
	v.current = &before
	v.stuck, v.retryAt = false, time.Time{}
	v.backoff.reset()
	v.update(func(s *Status) { s.Phase, s.PID, s.Message, s.Revision = PhaseStarting, 0, "", before.revision })
	if old == nil || old.leaving || v.ctx.Err() != nil {
		return // due starts it
	}
	if err := old.activate(v.ctx); err != nil {
		v.slog.Error("The process before does not come back: a new one is started", "err", err)
		old.endNow()
		return
	}
	old.active = true
	v.active = old
	v.describeActive()
	v.settleAt = time.Now().Add(max(before.spec.Watch, time.Second))
	v.slog.Info("The revision before is active again", "revision", before.revision, "pid", old.body.pid(), "gap", time.Since(v.endedAt))
}

// refuse notes why a candidate never took over.
func (v *supervisor) refuse(c *session, err error) {
	v.note(c, err, OutcomeRefused)
}

// note writes down what became of a revision that is not tried again.
func (v *supervisor) note(s *session, why error, outcome Outcome) {
	v.failed, v.failedOutcome, v.failedWhy = s.target.revision, outcome, why.Error()
	now := time.Now()
	active := v.current.revision
	v.slog.Error("Plugin was not swapped", "revision", s.target.revision, "outcome", outcome, "err", why)
	if outcome == OutcomeRefused {
		v.event(true, EventRefused, "revision %s was refused, %s stays: %v", s.target.revision, active, why)
	} else {
		v.event(true, EventRolledBack, "revision %s was rolled back: %v", s.target.revision, why)
	}
	v.update(func(st *Status) {
		st.LastError = why.Error()
		if refused, ok := errors.AsType[*notAcceptedError](why); ok {
			st.NotAccepted = refused.missing
		}
		entry := Revision{
			Revision: s.target.revision, Generation: s.target.spec.Generation, Version: s.description.Version,
			Outcome: outcome, Message: why.Error(), Start: s.begun, End: now, Gap: -1, Spec: s.target.spec,
		}
		if h := st.History; h != nil && outcome == OutcomeRolledBack && len(h.Revisions) > 0 &&
			h.Revisions[0].Revision == entry.Revision && h.Revisions[0].Outcome == OutcomeActive {
			entry.Start, entry.Gap, entry.Version = h.Revisions[0].Start, h.Revisions[0].Gap, h.Revisions[0].Version
		}
		st.History = st.History.with(entry)
		if outcome == OutcomeRolledBack && v.trial == nil {
			before := v.previous(st.History, entry.Revision)
			st.History = st.History.change(before, func(r *Revision) { r.Outcome, r.End = OutcomeActive, time.Time{} })
		}
	})
}

// previous is the newest revision in the history besides the one given that ran.
func (v *supervisor) previous(h *History, but string) string {
	for _, r := range h.Revisions {
		if r.Revision != but && (r.Outcome == OutcomeReplaced || r.Outcome == OutcomeActive) {
			return r.Revision
		}
	}
	return ""
}

// show puts the swap's state in the status.
func (v *supervisor) show(want target) {
	v.update(func(s *Status) {
		s.Generation = want.spec.Generation
		s.Candidate, s.Progress, s.ProgressMessage = Candidate{}, ProgressComplete, ""
		switch {
		case v.candidate != nil:
			c := v.candidate
			s.Candidate = Candidate{Revision: c.target.revision, Phase: CandidateStarting, Since: c.since, Message: c.message}
			s.Progress = ProgressStarting
			if c.prepared {
				s.Candidate.PID = c.body.pid()
				if c.state == pluginv1.State_STATE_STANDBY {
					s.Candidate.Phase, s.Progress = CandidateStandby, ProgressStandby
				}
			}
			s.ProgressMessage = "revision " + c.target.revision + " is to take the place of " + v.current.revision
		case v.trial != nil:
			s.Candidate = Candidate{Revision: v.current.revision, Phase: CandidateWatched, Since: v.trial.since, PID: s.PID}
			s.Progress = ProgressWatching
			s.ProgressMessage = "revision " + v.current.revision + " has taken the place of " + v.trial.before.revision
		case v.next != nil:
			s.Progress = ProgressStarting
			s.ProgressMessage = "revision " + v.next.revision + " is started when " + v.current.revision + " has ended"
		case v.failed == want.revision && v.failedOutcome == OutcomeRefused:
			s.Progress, s.ProgressMessage = ProgressRefused, "revision "+v.failed+": "+v.failedWhy
		case v.failed == want.revision:
			s.Progress, s.ProgressMessage = ProgressRolledBack, "revision "+v.failed+": "+v.failedWhy
		case !v.current.good:
			s.Progress = ProgressStarting
		}
	})
}
