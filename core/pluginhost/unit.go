package pluginhost

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	// sockets outlive the processes.
	sockets *sockets
	// folder is the name of its folders, records and cgroups; shades says that its processes
	// are those of a shadow.
	folder string
	shades bool

	mu       sync.Mutex // guards all below
	spec     Spec
	removed  bool
	restarts int           // how often Restart was called
	retries  int           // how often SwapAgain was called
	changed  chan struct{} // holds one token when any of those may have changed
	status   Status
	live     []*session // whose goroutine runs
	ensured  bool       // Ensure was called, by whom or for whom ever

	// inherited is what an earlier host left, of state; both are nil for a unit that Ensure
	// made. left is what this one leaves; Host.mu guards it.
	inherited *PluginState
	state     *State
	left      *PluginState
	rested    atomic.Bool // what was inherited has become what is wanted, or was refused
	shadow    *shadow     // nil: there was none yet

	granting sync.Mutex          // guards granted, and the order of Accept
	granted  []rbacv1.PolicyRule // that Accept was told last
}

func newUnit(h *Host, spec Spec) *unit {
	log := h.cfg.Log.With("plugin", spec.Name)
	return &unit{
		host: h, name: spec.Name, folder: spec.Name, spec: spec, changed: make(chan struct{}, 1),
		log: newLogFile(h.logDir(), spec.Name), slog: log, sockets: newSockets(log),
		status: Status{Phase: PhaseStopped},
	}
}

func (u *unit) want(spec Spec) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.spec, u.removed, u.ensured = spec, false, true
	u.kick()
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
	u.restarts++
	u.kick()
	return nil
}

func (u *unit) again() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.status.Progress != ProgressRefused && u.status.Progress != ProgressRolledBack {
		return ErrNothingToTry
	}
	u.retries++
	u.kick()
	return nil
}

// kick wakes the supervisor; u.mu is held.
func (u *unit) kick() {
	select {
	case u.changed <- struct{}{}:
	default:
	}
}

func (u *unit) isRemoved() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.removed
}

// wish is what is wanted of a unit.
type wish struct {
	spec              Spec
	removed           bool
	restarts, retries int
}

func (u *unit) wanted() wish {
	u.mu.Lock()
	defer u.mu.Unlock()
	return wish{u.spec, u.removed, u.restarts, u.retries}
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
	u.status.InProcess = u.status.InProcess && u.status.PID != 0
	after := u.status
	u.mu.Unlock()
	if before != after && u.host.cfg.OnStatus != nil {
		u.host.cfg.OnStatus(u.name, after)
	}
}

// event tells the listener of something that happened. Only the supervisor's goroutine
// calls it.
func (u *unit) event(warning bool, reason, format string, args ...any) {
	if u.host.cfg.OnEvent != nil {
		u.host.cfg.OnEvent(u.name, Event{Warning: warning, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
}

// renew has the sessions look at their credentials.
func (u *unit) renew() {
	if k := u.getShadow(); k != nil {
		k.own.renew()
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.live {
		select {
		case s.renewals <- struct{}{}:
		default: // it has yet to look
		}
	}
}

// grant has the rules of a session accepted, together with those of the others that run:
// both need their rights until one has ended.
func (u *unit) grant(ctx context.Context, s *session) error {
	if u.shades {
		if accept := u.host.cfg.Shadows.Accept; accept != nil {
			return accept(ctx, s.description)
		}
		return nil
	}
	if u.host.cfg.Accept == nil {
		return nil
	}
	u.granting.Lock()
	defer u.granting.Unlock()
	d := s.description
	u.mu.Lock()
	alone := len(u.live) == 1
	u.mu.Unlock()
	if !alone {
		d.Rules = union(u.granted, d.Rules)
	}
	if err := u.host.cfg.Accept(ctx, d); err != nil {
		return err
	}
	u.granted = d.Rules
	return nil
}

// narrow takes back what only a process that has ended needed.
func (u *unit) narrow(ctx context.Context, s *session) {
	u.granting.Lock()
	defer u.granting.Unlock()
	if u.host.cfg.Accept == nil || equality.Semantic.DeepEqual(u.granted, s.description.Rules) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := u.host.cfg.Accept(ctx, s.description); err != nil {
		u.slog.Warn("Rights of a plugin that was replaced are not taken back", "err", err)
		return
	}
	u.granted = s.description.Rules
}

// union is a and what of b is not in it.
func union(a, b []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	out := slices.Clone(a)
	for _, r := range b {
		if !slices.ContainsFunc(a, func(o rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(o, r) }) {
			out = append(out, r)
		}
	}
	return out
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
