package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// lookAgain is how often a program that was missing or had another checksum is looked
// for; nothing is started for that.
const lookAgain = 10 * time.Second

// unit is one plugin: what is wanted and what is.
type unit struct {
	host *Host
	name string
	log  *logFile
	slog *slog.Logger
	// renew holds one token when credentials are to be looked at.
	renew chan struct{}
	// sockets outlive the processes.
	sockets *sockets

	mu      sync.Mutex // guards all below
	spec    Spec
	removed bool
	changed chan struct{} // closed and replaced when spec, removed or a restart is wanted
	status  Status
	starts  int
}

func newUnit(h *Host, spec Spec) *unit {
	return &unit{
		host: h, name: spec.Name, spec: spec, changed: make(chan struct{}), renew: make(chan struct{}, 1),
		log:    newLogFile(h.logDir(), spec.Name),
		slog:   h.cfg.Log.With("plugin", spec.Name),
		status: Status{Phase: PhaseStopped}, sockets: newSockets(h.cfg.Log.With("plugin", spec.Name)),
	}
}

func (u *unit) want(spec Spec) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.removed || !u.spec.equal(spec) {
		u.spec, u.removed = spec, false
		u.kick()
	}
}

func (u *unit) remove() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.removed = true
	u.kick()
}

func (u *unit) restart() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.spec.Enabled {
		return fmt.Errorf("restart plugin %s: it is not enabled", u.name)
	}
	u.kick()
	return nil
}

// kick wakes the supervisor; u.mu is held.
func (u *unit) kick() {
	close(u.changed)
	u.changed = make(chan struct{})
}

func (u *unit) isRemoved() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.removed
}

func (u *unit) wanted() (spec Spec, changed <-chan struct{}, removed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.spec, u.changed, u.removed
}

func (u *unit) getStatus() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}

// update changes the status and tells the listener, if anything is different. Only the
// supervisor's goroutine calls it, so the listener sees changes in order.
func (u *unit) update(change func(s *Status)) {
	u.mu.Lock()
	before := u.status
	change(&u.status)
	after := u.status
	u.mu.Unlock()
	if before != after && u.host.cfg.OnStatus != nil {
		u.host.cfg.OnStatus(u.name, after)
	}
}

// supervise makes what is wanted so until ctx ends or the unit is removed.
func (u *unit) supervise(ctx context.Context) {
	defer u.log.close()
	defer u.sockets.keepFor()
	var b backoff
	for ctx.Err() == nil {
		spec, changed, removed := u.wanted()
		switch {
		case removed:
			u.update(func(s *Status) { s.Phase, s.PID, s.Message = PhaseStopped, 0, "" })
			if u.host.forget(u) {
				return
			}
		case !spec.Enabled:
			u.sockets.keepFor()
			u.update(func(s *Status) { s.Phase, s.PID, s.Message = PhaseStopped, 0, "" })
			pause(ctx, changed, -1)
		default:
			ran, err := u.serve(ctx, spec, changed)
			if err == nil { // asked to end
				b.reset()
				continue
			}
			u.failed(ctx, changed, &b, ran, err)
		}
	}
	u.update(func(s *Status) { s.Phase, s.PID, s.Message = PhaseStopped, 0, "" })
}

// failed notes why a plugin does not run, and waits until it should be tried again.
func (u *unit) failed(ctx context.Context, changed <-chan struct{}, b *backoff, ran time.Duration, err error) {
	phase, wait := PhaseBackOff, time.Duration(0)
	if final, ok := errors.AsType[*permanentError](err); ok {
		phase, wait = PhaseFailed, final.again
	} else {
		wait = b.next(ran)
	}
	if old := u.getStatus(); old.Phase != PhaseFailed || old.LastError != err.Error() {
		u.slog.Error("Plugin does not run", "phase", phase, "restartIn", wait.Round(time.Millisecond), "err", err)
	}
	u.update(func(s *Status) { s.Phase, s.PID, s.Message, s.LastError = phase, 0, "", err.Error() })
	pause(ctx, changed, wait)
}

// pause waits for a change, the end, or the time if it is not negative.
func pause(ctx context.Context, changed <-chan struct{}, wait time.Duration) {
	var timer <-chan time.Time
	if wait >= 0 {
		timer = time.After(wait)
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer:
	}
}

// permanentError is one that starting the same thing again does not mend.
type permanentError struct {
	err   error
	again time.Duration // when to look again; negative: only after a change
}

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// final makes an error permanent until the plugin's spec changes.
func final(err error) error { return &permanentError{err: err, again: -1} }

// notYet makes an error permanent, to be looked at again without starting anything.
func notYet(err error) error { return &permanentError{err: err, again: lookAgain} }
