package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// callTimeout bounds calls that should be quick (Describe, Activate).
	callTimeout = 10 * time.Second
	// configureTimeout bounds Configure, in which a plugin may probe the machine.
	configureTimeout = 60 * time.Second
	// drainTimeout is what a plugin has to finish what it has begun.
	drainTimeout = 10 * time.Second
	// stopTimeout is what it then has to end.
	stopTimeout = 7 * time.Second
	// silence is the longest time without a report (the contract says 10 s) after which
	// a plugin counts as hung.
	silence = 30 * time.Second
)

// errOutdated says that a plugin that takes no new credentials has to be started again.
var errOutdated = errors.New("credentials end soon")

// errAsked says that the process was to end: no failure.
var errAsked = errors.New("asked to end")

// serve runs the plugin once: from its launch to its end. A nil error means that it was
// asked to end (by ctx or changed) and did. ran is how long the process lived.
func (u *unit) serve(ctx context.Context, spec Spec, changed <-chan struct{}) (ran time.Duration, err error) {
	u.update(func(s *Status) { s.Phase, s.PID, s.Message = PhaseStarting, 0, "" })
	asked, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waiting := make(chan struct{})
	go func() { // ends with serve
		defer close(waiting)
		select {
		case <-changed:
			cancel(errAsked)
		case <-asked.Done():
		}
	}()
	defer func() { cancel(nil); <-waiting }()

	s, err := u.launch(asked, spec)
	if err != nil {
		if asked.Err() != nil {
			return 0, nil
		}
		return 0, err
	}
	u.update(func(st *Status) { st.PID, st.StartedAt = s.process.pid, s.started })
	if err = s.prepare(asked); err == nil {
		err = s.watch(asked)
	}
	if asked.Err() != nil || errors.Is(err, errOutdated) {
		s.stop(context.WithoutCancel(ctx))
		return time.Since(s.started), nil
	}
	s.kill()
	return time.Since(s.started), s.explain(err)
}

// prepare goes from the handshake to the activation.
func (s *session) prepare(ctx context.Context) error {
	u, cfg := s.unit, &s.unit.host.cfg
	d, err := s.describe(ctx)
	if err != nil {
		return err
	}
	u.update(func(st *Status) { st.Version, st.Description = d.Version, &d })
	if d.Name != s.spec.Name {
		return final(fmt.Errorf("metadata.name: the program is plugin %q, not %q", d.Name, s.spec.Name))
	}
	if s.spec.Kind != "" && d.Kind != s.spec.Kind {
		return final(fmt.Errorf("spec.kind: the program is of kind %q, not %q", d.Kind, s.spec.Kind))
	}
	if err := checkConfig(d.ConfigSchema, s.spec.Config); err != nil {
		return final(err)
	}
	if cfg.Accept != nil {
		if err := cfg.Accept(ctx, d); err != nil {
			return fmt.Errorf("accept plugin %s: %w", u.name, err)
		}
	}
	request, err := u.configuration(s.spec, d)
	if err != nil {
		return err
	}
	s.description, s.issued = d, issued{client: request.GetApi().GetClient(), serving: request.GetServing()}
	if err := call(ctx, configureTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Configure(ctx, request)
		return err
	}); err != nil {
		if status.Code(err) == codes.InvalidArgument {
			return final(fmt.Errorf("spec.config: %s", status.Convert(err).Message()))
		}
		return s.rpcError("configure", err)
	}
	if err := call(ctx, callTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Activate(ctx, &pluginv1.ActivateRequest{})
		return err
	}); err != nil {
		return s.rpcError("activate", err)
	}
	return nil
}

func call(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx)
}

// watch follows the plugin's reports until it ends, hangs, fails, or is asked to end.
func (s *session) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reports, ended := make(chan *pluginv1.HealthResponse), make(chan error, 1)
	go func() { ended <- s.receive(ctx, reports) }() // ends with ctx
	defer func() { cancel(); <-ended }()

	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		select {
		case r := <-reports:
			timer.Reset(silence)
			if err := s.report(r); err != nil {
				return err
			}
		case <-s.unit.renew:
			if err := s.renew(ctx); err != nil {
				return err
			}
		case <-timer.C:
			return fmt.Errorf("the plugin hangs: no report for %s", silence)
		case <-s.process.done:
			return errors.New("the process ended")
		case err := <-ended:
			ended <- err
			if s.process.endsSoon() {
				return errors.New("the process ended")
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

// report notes what a plugin says of itself. FAILED ends it.
func (s *session) report(r *pluginv1.HealthResponse) error {
	phase := PhaseStarting
	switch r.GetState() {
	case pluginv1.State_STATE_FAILED:
		return fmt.Errorf("the plugin failed: %s", r.GetMessage())
	case pluginv1.State_STATE_READY:
		phase = PhaseRunning
	case pluginv1.State_STATE_DEGRADED:
		phase = PhaseDegraded
	}
	before := s.unit.getStatus().Phase
	s.unit.update(func(st *Status) { st.Phase, st.Message = phase, r.GetMessage() })
	switch {
	case before == phase:
	case phase == PhaseRunning:
		s.unit.slog.Info("Plugin runs", "pid", s.process.pid, "after", time.Since(s.started).Round(time.Millisecond))
	case phase == PhaseDegraded:
		s.unit.slog.Warn("Plugin is degraded", "reason", r.GetMessage())
	}
	return nil
}

// stop ends the process in good order: drain, stop, then by force.
func (s *session) stop(ctx context.Context) {
	err := call(ctx, drainTimeout+time.Second, func(ctx context.Context) error {
		_, err := s.rpc.Drain(ctx, &pluginv1.DrainRequest{Timeout: durationpb.New(drainTimeout)})
		return err
	})
	if err != nil && status.Code(err) != codes.Unimplemented {
		s.unit.slog.Warn("Plugin was not drained", "err", status.Convert(err).Message())
	}
	err = call(ctx, stopTimeout, func(ctx context.Context) error {
		_, err := s.rpc.Stop(ctx, &pluginv1.StopRequest{})
		return err
	})
	if err == nil {
		select {
		case <-s.process.done:
		case <-time.After(stopTimeout):
		}
	}
	select {
	case <-s.process.done:
		s.unit.slog.Info("Plugin stopped", "pid", s.process.pid)
	default:
		s.unit.slog.Warn("Plugin is killed: it did not stop in time", "pid", s.process.pid)
	}
	s.kill()
}

// rpcError is a failed call in the words of the other end; a process that dies in a call
// is told from one that answers with an error.
func (s *session) rpcError(what string, err error) error {
	if code := status.Code(err); (code == codes.Unavailable || code == codes.Unknown) && s.process.endsSoon() {
		return fmt.Errorf("%s: the process ended", what)
	}
	return fmt.Errorf("%s: %s", what, status.Convert(err).Message())
}

// explain adds to an error how the process ended by itself, and its last words.
func (s *session) explain(err error) error {
	if _, ok := errors.AsType[*permanentError](err); ok {
		return err
	}
	ending := s.process.ending()
	words := s.unit.log.lastWords(s.mark, ending != "signal: killed")
	if ending != "" {
		ending = " (" + ending + ")"
	}
	if words != "" {
		words = ": " + words
	}
	return fmt.Errorf("%w%s%s", err, ending, words)
}

// count counts a start.
func (u *unit) count() {
	u.update(func(s *Status) {
		s.Restarts = u.starts
		u.starts++
	})
}
