package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// ErrNoShadow is returned by Comparison for a plugin without one.
var ErrNoShadow = errors.New("the plugin has no shadow: name its program in spec.shadow")

// Shadows is what a host needs to run shadows.
type Shadows struct {
	// Client issues the identity of a plugin's shadow.
	Client func(name string) (KeyPair, error)
	// Accept is asked before a shadow is configured; the rules of d are those that read. An
	// error is tried again. Nil accepts all.
	Accept func(ctx context.Context, d Description) error
	// Revoke is told of a plugin that has no shadow any more. Nil: nobody listens.
	Revoke func(ctx context.Context, name string) error
}

// ShadowSpec is the program that decides beside the active one; what is not here is as in
// the Spec.
type ShadowSpec struct {
	BuiltIn               bool
	Program, Path, SHA256 string
	Args                  []string
	Config                []byte
}

// ShadowStatus is how a shadow is; without Revision there is none.
type ShadowStatus struct {
	Revision, Version, Message string
	Phase                      Phase
	PID, Restarts              int
	StartedAt                  time.Time
}

// shadow runs the program of Spec.Shadow beside the active process of a unit. Nothing that
// becomes of it concerns that one. Its goroutine is run; the supervisor of the unit tells it
// what is wanted, and puts its status in that of the unit.
type shadow struct {
	of         *unit
	own        *unit // of its processes; the host does not list it
	ctx        context.Context
	changed    chan struct{} // holds one token when what is wanted has changed
	comparison *comparison
	listeners  sync.WaitGroup

	mu       sync.Mutex // guards all below
	want     *target    // nil: none is wanted
	closed   bool       // the unit is gone
	busy     bool       // there is a process, or something left of one
	status   ShadowStatus
	events   []Event
	state    pluginv1.State
	said     string // with the state
	kind     string
	attended map[*session]*attention
	activeAt *session // the active one
}

// attention is the stream of a session of the unit that is followed.
type attention struct {
	cancel    context.CancelFunc
	listening bool
	why       string // it is not
}

func newShadow(ctx context.Context, of *unit) *shadow {
	log := of.slog.With("shadow", true)
	own := &unit{
		host: of.host, name: of.name, folder: of.name + shadowSuffix, shades: true, changed: make(chan struct{}, 1),
		log: of.log, slog: log, sockets: newSockets(log),
	}
	return &shadow{of: of, own: own, ctx: ctx, changed: make(chan struct{}, 1), comparison: newComparison(), attended: map[*session]*attention{}}
}

// shadowTarget is what a spec's shadow is made of; nil: there is none.
func (h *Host) shadowTarget(s Spec) *target {
	if s.Shadow == nil || h.cfg.Shadows == nil {
		return nil
	}
	sh := s.Shadow
	s.BuiltIn, s.Program, s.Path, s.SHA256, s.Args, s.Config = sh.BuiltIn, sh.Program, sh.Path, sh.SHA256, sh.Args, sh.Config
	s.Shadow, s.Restore = nil, nil
	return &target{spec: s, revision: h.Revision(s)}
}

// tend has the unit's shadow be as the spec says.
func (v *supervisor) tend(spec Spec) {
	t := v.host.shadowTarget(spec)
	k := v.getShadow()
	if k == nil {
		if t == nil {
			return
		}
		k = newShadow(v.ctx, v.unit)
		v.mu.Lock()
		v.shadow = k
		v.mu.Unlock()
		v.host.wg.Go(k.run) // ends with the host, or by endShadow
	}
	k.wanted(t)
	k.attend(v)
	v.showShadow(k)
}

// showShadow tells what became of the shadow.
func (v *supervisor) showShadow(k *shadow) {
	events, st := k.report()
	for _, e := range events {
		v.event(e.Warning, e.Reason, "%s", e.Message)
	}
	v.update(func(s *Status) { s.Shadow = st })
}

// dismissShadow ends the shadow. True: nothing is left of it.
func (v *supervisor) dismissShadow() bool {
	k := v.getShadow()
	if k == nil {
		return true
	}
	k.wanted(nil)
	k.attend(nil)
	k.mu.Lock()
	busy := k.busy
	k.mu.Unlock()
	v.showShadow(k)
	return !busy
}

// endShadow ends the goroutine of a shadow that was dismissed.
func (v *supervisor) endShadow() {
	if k := v.getShadow(); k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.closed = true
		k.kick()
	}
}

func (u *unit) getShadow() *shadow {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.shadow
}

// wanted says what is wanted.
func (k *shadow) wanted(t *target) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if (k.want == nil) != (t == nil) || t != nil && t.revision != k.want.revision {
		k.kick()
	}
	k.want = t
	if t == nil {
		k.status = ShadowStatus{}
	} else if k.status.Revision != t.revision {
		k.status = ShadowStatus{Revision: t.revision, Phase: PhaseStarting}
	}
}

// kick wakes run; k.mu is held.
func (k *shadow) kick() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// report is what there is to tell of it.
func (k *shadow) report() ([]Event, ShadowStatus) {
	k.mu.Lock()
	defer k.mu.Unlock()
	events := k.events
	k.events = nil
	return events, k.status
}

// next is what is to run; nil: nothing. over: run ends.
func (k *shadow) next() (t *target, over bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.want, k.closed || k.ctx.Err() != nil
}

// run keeps the shadow's process running.
func (k *shadow) run() {
	defer k.listeners.Wait()
	var again backoff
	ran := ""
	for {
		t, over := k.next()
		if over || t == nil {
			if ran != "" {
				k.clean(over)
				ran = ""
			}
			if over {
				return
			}
			k.wait(-1)
			continue
		}
		if t.revision != ran {
			ran = t.revision
			again.reset()
		}
		began := time.Now()
		k.begin(t)
		err := k.live(*t)
		if err == nil || errors.Is(err, errOutdated) {
			continue
		}
		phase, wait := PhaseBackOff, max(again.next(time.Since(began)), backoffFirst)
		if stuck, ok := errors.AsType[*permanentError](err); ok {
			phase, wait = PhaseFailed, stuck.again
		}
		k.failed(t, phase, wait, err)
		k.wait(wait)
	}
}

// wait waits for so long, or until what is wanted changes; negative: only for that.
func (k *shadow) wait(d time.Duration) {
	var due <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-due:
	case <-k.changed:
	case <-k.ctx.Done():
	}
}

// clean is called when the last shadow has ended: nothing of it stays.
func (k *shadow) clean(over bool) {
	k.own.sockets.keepFor()
	h := k.own.host
	if revoke := h.cfg.Shadows.Revoke; revoke != nil && !over {
		ctx, cancel := context.WithTimeout(k.ctx, callTimeout)
		defer cancel()
		if err := revoke(ctx, k.own.name); err != nil {
			k.own.slog.Warn("Rights of a shadow are not taken back", "err", err)
		}
	}
	if k.ctx.Err() == nil {
		for _, dir := range []string{h.runDir(k.own.folder), h.dataDir(k.own.folder)} {
			if err := os.RemoveAll(dir); err != nil {
				k.own.slog.Warn("Folder of a shadow stays", "err", err)
			}
		}
	}
	k.set(func() { k.busy = false })
}

// set changes what there is to tell, and has the supervisor look.
func (k *shadow) set(change func()) {
	k.mu.Lock()
	change()
	k.mu.Unlock()
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.of.kick()
}

// begin notes a start.
func (k *shadow) begin(t *target) {
	k.set(func() {
		k.busy = true
		k.state, k.said, k.kind = pluginv1.State_STATE_UNSPECIFIED, "", ""
		if st := &k.status; st.Revision == t.revision && (st.Phase == PhaseBackOff || st.PID != 0) {
			st.Phase, st.PID = PhaseStarting, 0
			st.Restarts++
		}
	})
}

// failed notes why it does not run.
func (k *shadow) failed(t *target, phase Phase, wait time.Duration, err error) {
	text := shadowFields.Replace(err.Error())
	k.set(func() {
		if k.want == nil || k.status.Revision != t.revision {
			return
		}
		if k.status.Phase != phase || k.status.Message != text {
			k.own.slog.Warn("Shadow does not run", "phase", phase, "err", err)
			event := Event{Warning: true, Reason: EventShadowFailed, Message: "the shadow, revision " + t.revision + ", does not run: " + text}
			if phase == PhaseBackOff {
				event.Message = fmt.Sprintf("the shadow, revision %s, is started again in %s: %s", t.revision, wait.Round(time.Millisecond), text)
			}
			k.events = append(k.events, event)
		}
		k.status.Phase, k.status.PID, k.status.Message = phase, 0, text
	})
}

// shadowFields puts the fields of the shadow in the place of those of the active one.
var shadowFields = strings.NewReplacer("spec.config", "spec.shadow.config", "spec.source", "spec.shadow.source")

// live runs one process of the shadow to its end. Nil: it is not wanted any more.
func (k *shadow) live(t target) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(k.ctx))
	defer cancel(nil)
	var refused error
	s := &session{unit: k.own, target: t, cancel: cancel, renewals: make(chan struct{}, 1), begun: time.Now(), since: time.Now()}
	s.notify = func(e sessionEvent) {
		switch e.kind {
		case sessionLaunched:
			k.set(func() {
				if k.status.Revision == t.revision {
					k.status.Phase, k.status.Message, k.status.PID, k.status.StartedAt = PhaseStarting, "", s.body.pid(), s.started
				}
			})
		case sessionPrepared:
			if refused = k.activate(ctx, s); refused != nil {
				cancel(errKill)
			}
		case sessionReported:
			k.set(func() { k.state, k.said = e.report.GetState(), e.report.GetMessage(); k.judge() })
		}
	}
	k.own.mu.Lock()
	k.own.live = []*session{s}
	k.own.mu.Unlock()
	watched := make(chan struct{})
	go func() { defer close(watched); k.guard(ctx, t, cancel) }() // ends with ctx
	err := s.live(ctx)
	cancel(nil)
	<-watched
	k.own.mu.Lock()
	k.own.live = nil
	k.own.mu.Unlock()
	if refused != nil {
		return refused
	}
	return err
}

// guard ends the session when it is not wanted any more.
func (k *shadow) guard(ctx context.Context, t target, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.ctx.Done():
			cancel(errKill) // it has nothing to finish
			return
		case <-k.changed:
		}
		if now, over := k.next(); over || now == nil || now.revision != t.revision {
			cancel(errAsked)
			return
		}
	}
}

// activate has a configured process decide; what it decides is listened to before.
func (k *shadow) activate(ctx context.Context, s *session) error {
	d := s.description
	k.set(func() { k.kind, k.status.Version = d.Kind, d.Version })
	if tells(d.Kind) {
		heard := make(chan error, 1)
		listening := sync.OnceFunc(func() { heard <- nil })
		k.listeners.Go(func() { // ends with the session
			err := k.follow(ctx, s, shadowSide, listening)
			select {
			case heard <- err: // it never listened
			default:
			}
			for pause(ctx, listenAgain) {
				_ = k.follow(ctx, s, shadowSide, func() {}) // what is lost is a decision of the active one only
			}
		})
		if err := <-heard; err != nil {
			if status.Code(err) == codes.Unimplemented {
				return final(errors.New("the program tells no decisions: it has no shadow mode"))
			}
			return s.rpcError("decisions", err)
		}
	}
	err := call(ctx, callTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Activate(ctx, &pluginv1.ActivateRequest{Mode: pluginv1.Mode_MODE_SHADOW})
		return err
	})
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unimplemented:
		return final(errors.New("the program has no shadow mode"))
	default:
		return s.explain(s.rpcError("activate as a shadow", err))
	}
}
