package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// callTimeout bounds calls that should be quick (Describe).
	callTimeout = 10 * time.Second
	// drainTimeout is what a plugin has to finish what it has begun.
	drainTimeout = 10 * time.Second
	// stopTimeout is what it then has to end.
	stopTimeout = 7 * time.Second
	// acceptAgain is the pause before a candidate's rules are asked about once more.
	acceptAgain = 500 * time.Millisecond
)

var (
	// errOutdated says that a plugin that takes no new credentials has to be started again.
	errOutdated = errors.New("credentials end soon")
	// errAsked ends a session in good order, errKill at once.
	errAsked = errors.New("asked to end")
	errKill  = errors.New("to be killed")
)

// eventKind is what happened to a session.
type eventKind int

const (
	// sessionLaunched: the process runs and has done the handshake.
	sessionLaunched eventKind = iota
	// sessionPrepared: it is configured, and active if it is a direct one.
	sessionPrepared
	// sessionReported: report has what it says of itself.
	sessionReported
	// sessionHangs: it was killed and goes on, which only one in this process can; err says
	// why it was killed, nil that it was to end.
	sessionHangs
	// sessionEnded: the process is gone and all that it left; err says why, nil that it was
	// to end. It is the last event.
	sessionEnded
	// sessionAdopted: it has taken over a process that an earlier host started.
	sessionAdopted
)

// sessionEvent is what a session tells its unit.
type sessionEvent struct {
	session *session
	kind    eventKind
	report  *pluginv1.HealthResponse
	err     error
}

// session is one life of a plugin, with the connection to it. Its goroutine is
// live; the unit's goroutine reads its fields after an event that says they are there.
type session struct {
	unit     *unit
	target   target
	direct   bool // is activated as soon as it is configured
	notify   func(sessionEvent)
	cancel   context.CancelCauseFunc
	renewals chan struct{} // holds one token when credentials are to be looked at
	begun    time.Time
	over     <-chan struct{} // closes when the host ends

	// set by open
	body    body
	rpc     pluginv1.PluginServiceClient
	started time.Time
	log     *logWriter
	version int         // of the contract
	worked  atomic.Bool // was active at some time

	// set by prepare
	description Description
	issued      issued

	// of the unit's goroutine
	prepared, active, leaving bool
	state                     pluginv1.State
	message                   string
	since                     time.Time // of its phase as a candidate
	seenReady                 bool
	watchFor                  time.Duration // Spec.Watch, which may change while it is a candidate
	streams                   int32         // that it has open for others
	until                     time.Time     // how long it is kept for them

	// of hand-overs: what an earlier host left, until it is taken up; and what is left
	inherited *SessionState
	adopting  bool
	left      *SessionState
}

// live runs the plugin once: from its launch to its end. A nil error means that it was
// asked to end and did.
func (s *session) live(ctx context.Context) error {
	err := s.begin(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if s.inherited != nil {
		s.notify(sessionEvent{session: s, kind: sessionAdopted})
		err = s.watch(ctx)
	} else if err = s.set(ctx); err == nil {
		err = s.watch(ctx)
	}
	if detachedBy(ctx) {
		if err := s.detach(); err != nil {
			s.body.kill()
			return err
		}
		return errDetach
	}
	outdated := errors.Is(err, errOutdated)
	switch asked := errors.Is(context.Cause(ctx), errAsked); {
	case outdated:
		s.stop(context.WithoutCancel(ctx))
	case asked:
		s.stop(context.WithoutCancel(ctx))
		err = nil
	default:
		s.body.kill()
		if err = s.explain(err); ctx.Err() != nil {
			err = nil
		}
	}
	s.outlive(err)
	return err
}

// outlive waits for a plugin in this process that goes on although it was killed: until it
// has ended, none may take its place. The end of the host ends the wait.
func (s *session) outlive(why error) {
	if !s.body.hangs() {
		return
	}
	s.notify(sessionEvent{session: s, kind: sessionHangs, err: why})
	select {
	case <-s.body.done():
	case <-s.over:
	}
}

// begin gives the session a process: a new one, or one that runs.
func (s *session) begin(ctx context.Context) error {
	if s.inherited != nil {
		return s.reattach()
	}
	return s.open(ctx)
}

// set has a new process do its work, or stand by for it.
func (s *session) set(ctx context.Context) error {
	s.notify(sessionEvent{session: s, kind: sessionLaunched})
	err := s.prepare(ctx)
	if err == nil && s.direct {
		err = s.activate(ctx)
	}
	if err == nil {
		s.notify(sessionEvent{session: s, kind: sessionPrepared})
	}
	return err
}

// end has the session end in good order; its last event tells when it has.
func (s *session) end() { s.leaving = true; s.cancel(errAsked) }

// endNow kills the plugin, which has been launched. False: it is in this process, and hangs.
func (s *session) endNow() (gone bool) {
	s.leaving = true
	s.cancel(errKill)
	s.body.kill()
	return !s.body.hangs()
}

// prepare goes from the handshake to a configured plugin.
func (s *session) prepare(ctx context.Context) error {
	spec := s.target.spec
	d, err := s.describe(ctx)
	if err != nil {
		return err
	}
	if s.unit.shades {
		if err := s.asShadow(&d); err != nil {
			return err
		}
	}
	s.description = d
	if d.Name != spec.Name {
		return final(fmt.Errorf("metadata.name: the program is plugin %q, not %q", d.Name, spec.Name))
	}
	if spec.Kind != "" && d.Kind != spec.Kind {
		return final(fmt.Errorf("spec.kind: the program is of kind %q, not %q", d.Kind, spec.Kind))
	}
	if missing := notAccepted(spec, d.Rules); missing != "" {
		return final(&notAcceptedError{missing})
	}
	if err := checkConfig(d.ConfigSchema, spec.Config); err != nil {
		return final(err)
	}
	if err := s.accept(ctx); err != nil {
		return err
	}
	request, err := s.unit.configuration(spec, d)
	if err != nil {
		return err
	}
	s.issued = issued{client: request.GetApi().GetClient(), serving: request.GetServing()}
	if err := call(ctx, s.unit.host.cfg.Periods.Configure, func(ctx context.Context) error {
		_, err := s.rpc.Configure(ctx, request)
		return err
	}); err != nil {
		switch status.Code(err) {
		case codes.InvalidArgument:
			return final(fmt.Errorf("spec.config: %s", status.Convert(err).Message()))
		case codes.DeadlineExceeded:
			return fmt.Errorf("configure: the plugin hangs: no answer for %s", s.unit.host.cfg.Periods.Configure)
		}
		return s.rpcError("configure", err)
	}
	return nil
}

// notAcceptedError is about rules that a program declares and nobody has accepted.
type notAcceptedError struct{ missing string }

func (e *notAcceptedError) Error() string {
	return "spec.rules: the program declares more than is accepted: " + e.missing
}

// accept has the rules granted. A candidate asks again: its refusal would be for good.
func (s *session) accept(ctx context.Context) error {
	for {
		err := s.unit.grant(ctx, s)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("accept plugin %s: %w", s.unit.name, err)
		if s.direct || time.Since(s.begun) > s.unit.host.cfg.Periods.Standby {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(acceptAgain):
		}
	}
}

func call(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx)
}

// activate has the plugin do its work.
func (s *session) activate(ctx context.Context) error {
	s.worked.Store(true)
	limit := s.unit.host.cfg.Periods.Activate
	err := call(ctx, limit, func(ctx context.Context) error {
		_, err := s.rpc.Activate(ctx, &pluginv1.ActivateRequest{Mode: pluginv1.Mode_MODE_ACTIVE})
		return err
	})
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("activate: no answer for %s", limit)
	default:
		return s.rpcError("activate", err)
	}
}

// deactivate has the plugin give up its work, and keeps the process.
func (s *session) deactivate(ctx context.Context) error {
	limit := s.unit.host.cfg.Periods.Deactivate
	err := call(ctx, limit, func(ctx context.Context) error {
		left, err := s.rpc.Deactivate(ctx, &pluginv1.DeactivateRequest{})
		s.streams = left.GetOpenStreams()
		return err
	})
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("deactivate: no answer for %s", limit)
	default:
		return s.rpcError("deactivate", err)
	}
}

// watch follows the plugin's reports until it ends, hangs, fails, or is asked to end.
func (s *session) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reports, ended := make(chan *pluginv1.HealthResponse), make(chan error, 1)
	go func() { ended <- s.receive(ctx, reports) }() // ends with ctx
	defer func() { cancel(); <-ended }()

	silence := s.unit.host.cfg.Periods.Silence
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case r := <-reports:
			timer.Reset(silence)
			if r.GetState() == pluginv1.State_STATE_FAILED {
				return fmt.Errorf("the plugin failed: %s", r.GetMessage())
			}
			s.notify(sessionEvent{session: s, kind: sessionReported, report: r})
		case <-s.renewals:
			if err := s.renew(ctx); err != nil {
				return err
			}
		case <-timer.C:
			return fmt.Errorf("the plugin hangs: no report for %s", silence)
		case <-s.body.done():
			return s.hasEnded()
		case err := <-ended:
			ended <- err
			if ctx.Err() != nil { // the stream ended because of it
				return ctx.Err()
			}
			if s.body.endsSoon() {
				return s.hasEnded()
			}
			return s.rpcError("health", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive passes the Health stream on.
func (s *session) receive(ctx context.Context, to chan<- *pluginv1.HealthResponse) error {
	stream, err := s.rpc.Health(ctx, &pluginv1.HealthRequest{})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case to <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends the process in good order: drain, stop, then by force.
func (s *session) stop(ctx context.Context) {
	if s.worked.Load() {
		s.drain(ctx)
	}
	err := call(ctx, stopTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Stop(ctx, &pluginv1.StopRequest{})
		return err
	})
	if err == nil {
		select {
		case <-s.body.done():
		case <-time.After(stopTimeout):
		}
	}
	select {
	case <-s.body.done():
		s.unit.slog.Info("Plugin stopped", "pid", s.body.pid(), "inProcess", s.body.inProcess())
	default:
		s.unit.slog.Warn("Plugin is killed: it did not stop in time", "pid", s.body.pid())
	}
	s.body.kill()
}

func (s *session) drain(ctx context.Context) {
	err := call(ctx, drainTimeout+time.Second, func(ctx context.Context) error {
		_, err := s.rpc.Drain(ctx, &pluginv1.DrainRequest{Timeout: durationpb.New(drainTimeout)})
		return err
	})
	if err != nil && status.Code(err) != codes.Unimplemented {
		s.unit.slog.Warn("Plugin was not drained", "err", status.Convert(err).Message())
	}
}

// rpcError is a failed call in the words of the other end; a process that dies in a call
// is told from one that answers with an error.
func (s *session) rpcError(what string, err error) error {
	if code := status.Code(err); (code == codes.Unavailable || code == codes.Unknown) && s.body.endsSoon() {
		return fmt.Errorf("%s: %w", what, s.hasEnded())
	}
	return fmt.Errorf("%s: %s", what, status.Convert(err).Message())
}

// hasEnded is the error for a plugin that ended by itself.
func (s *session) hasEnded() error {
	if s.body.inProcess() {
		return errors.New("the plugin ended")
	}
	return errors.New("the process ended")
}

// explain adds to an error how the process ended by itself, and its last words.
func (s *session) explain(err error) error {
	if _, ok := errors.AsType[*permanentError](err); ok {
		return err
	}
	ending := s.body.ending()
	words := s.log.lastWords(ending != "signal: killed")
	switch {
	case ending != "" && s.body.oomKilled():
		ending = " (" + ending + " for want of memory"
		if limit := s.target.spec.Limits.Memory; limit > 0 {
			ending += fmt.Sprintf(": it used its limit of %d MiB", limit>>20)
		}
		ending += ")"
	case ending != "":
		ending = " (" + ending + ")"
	}
	if words != "" {
		words = ": " + words
	}
	return fmt.Errorf("%w%s%s", err, ending, words)
}
