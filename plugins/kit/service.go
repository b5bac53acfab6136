package kit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// healthInterval is the longest silence on a Health stream (the contract says 10 s).
	healthInterval = 5 * time.Second
	// defaultDrain holds where Drain names no time.
	defaultDrain = 10 * time.Second
	// endGrace is how long Start may take to return after its context ended, before
	// the process ends without it.
	endGrace = 5 * time.Second
)

// Service is the base contract over one Plugin. Main serves it from a process; tests
// serve it in memory (kittest.Client).
type Service struct {
	pluginv1.UnimplementedPluginServiceServer

	plugin Plugin
	log    *slog.Logger
	level  *slog.LevelVar
	exit   func(code int)
	base   context.Context // the life of the process

	sockets  *sockets // that the kernel keeps; nil: the plugin binds itself
	embedded bool     // runs in the kernel's process (Embed)

	decisions Decisions // of all activations

	life    context.Context // of what may outlive an activation; ends at the end
	endLife context.CancelFunc
	turned  wakeup        // fires when what is active or warm changes
	streams streams       // that others have open
	stopped chan struct{} // closed by Stop: Health streams end
	stop    sync.Once

	mu      sync.Mutex // guards what follows; held while New runs, not while Start does
	config  *pluginv1.ConfigureRequest
	env     *Env
	runner  Runner      // made and not yet started, or the active one
	standby *standby    // that keeps it warm; nil: it has nothing to warm
	active  *activation // nil: standby
	drained bool
}

// activation is one run of Start, or of Shadow.
type activation struct {
	shadow bool
	cancel context.CancelFunc
	done   chan struct{}             // closed when Start has returned
	endBy  atomic.Pointer[time.Time] // when what was begun has to be finished
}

// NewService makes the service. ctx is the life of the process; exit ends it (os.Exit)
// and is called from a goroutine of the service after a failure (1) or Stop (0).
func NewService(ctx context.Context, p Plugin, log *slog.Logger, level *slog.LevelVar, exit func(code int)) *Service {
	s := &Service{plugin: p, log: log, level: level, exit: exit, base: ctx, stopped: make(chan struct{})}
	s.life, s.endLife = context.WithCancel(ctx)
	s.streams.turned, s.streams.told = &s.turned, true
	return s
}

// Describe implements the contract.
func (s *Service) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return describe(s.plugin), nil
}

// Configure implements the contract.
func (s *Service) Configure(ctx context.Context, req *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		return nil, status.Error(codes.FailedPrecondition, "configure: the plugin is active; deactivate it first")
	}
	if err := setLevel(s.level, req.GetLogLevel()); err != nil {
		return nil, err
	}
	before, runner := s.standby, s.runner
	if err := s.makeRunner(req); err != nil {
		return nil, err
	}
	if err := before.end(ctx); err != nil {
		s.log.Warn("The standby of the earlier configuration has not ended", "err", err)
	} else {
		closeRunner(runner)
	}
	s.config = req
	s.startStandby()
	return &pluginv1.ConfigureResponse{}, nil
}

// makeRunner makes the environment and the runner for a configuration.
func (s *Service) makeRunner(req *pluginv1.ConfigureRequest) (err error) {
	env, err := newEnv(s.plugin, req, s.log)
	if err != nil {
		return err
	}
	env.Process, env.sockets, env.streams, env.Decisions = s.life, s.sockets, &s.streams, &s.decisions
	env.fail = s.fail
	if !s.embedded { // else the kernel has them
		env.Metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("Plugin panicked while it was configured", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "configure %s: panic: %v", s.plugin.Name, r)
		}
	}()
	runner, err := s.plugin.New(env)
	if err != nil {
		return toStatus(err)
	}
	s.env.hangUp()
	s.env, s.runner = env, runner
	return nil
}

// hangUp closes connections to the API that nothing uses any more: in a process of its own
// they end with it.
func (s *Service) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.env.hangUp()
}

// Renew implements the contract.
func (s *Service) Renew(_ context.Context, req *pluginv1.RenewRequest) (*pluginv1.RenewResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil {
		return nil, status.Error(codes.FailedPrecondition, "renew: the plugin is not configured")
	}
	if err := s.env.credentials.renew(req); err != nil {
		return nil, toStatus(err)
	}
	s.config = renewed(s.config, req)
	if r, ok := s.runner.(Renewer); ok {
		if err := r.Renewed(KeyPair{Certificate: req.GetClient().GetCertificate(), PrivateKey: req.GetClient().GetPrivateKey()}); err != nil {
			return nil, toStatus(fmt.Errorf("renew the credentials of %s: %w", s.plugin.Name, err))
		}
	}
	return &pluginv1.RenewResponse{}, nil
}

// readyWait is how long Activate waits for a warm runner to be at work, so that its
// answer tells when the work goes on: half of the time that the kernel waits.
const readyWait = 5 * time.Second

// Activate implements the contract.
func (s *Service) Activate(ctx context.Context, req *pluginv1.ActivateRequest) (*pluginv1.ActivateResponse, error) {
	begin := time.Now()
	a, env, warm, err := s.activate(req.GetMode() == pluginv1.Mode_MODE_SHADOW)
	if err != nil {
		return nil, err
	}
	if a == nil || !warm {
		return &pluginv1.ActivateResponse{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		state, _, changed := env.Health.watch()
		if state != pluginv1.State_STATE_STARTING {
			break
		}
		select {
		case <-changed:
			continue
		case <-a.done:
		case <-ctx.Done():
		}
		break
	}
	s.log.Debug("Plugin is active", "after", time.Since(begin))
	return &pluginv1.ActivateResponse{}, nil
}

// activate starts the runner. The activation is nil if there is one already; warm tells
// whether a standby has warmed it.
func (s *Service) activate(shadow bool) (a *activation, env *Env, warm bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil {
		return nil, nil, false, status.Error(codes.FailedPrecondition, "activate: the plugin is not configured")
	}
	if s.active != nil && s.active.shadow != shadow {
		return nil, nil, false, status.Error(codes.FailedPrecondition, "activate: the plugin is active in another mode; deactivate it first")
	}
	if s.active != nil {
		return nil, nil, false, nil
	}
	if s.runner == nil {
		if err := s.makeRunner(s.config); err != nil {
			return nil, nil, false, err
		}
		s.startStandby()
	}
	if _, ok := s.runner.(Shadower); shadow && !ok {
		return nil, nil, false, status.Error(codes.Unimplemented, "activate: the plugin has no shadow mode")
	}
	a = &activation{shadow: shadow, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.WithValue(s.base, runKey{}, a))
	a.cancel = cancel
	s.active, s.drained = a, false
	s.streams.tell(false)
	s.env.Health.SetStarting("")
	s.turned.fire()
	go s.run(ctx, a, s.env, s.runner)
	return a, s.env, s.standby != nil && s.standby.isWarm(), nil
}

// run is the goroutine of one activation; Deactivate, Stop or the end of the process
// ends it. A runner that ends by itself takes the process with it.
func (s *Service) run(ctx context.Context, a *activation, env *Env, runner Runner) {
	defer close(a.done)
	metricsDone := make(chan struct{})
	go func() { defer close(metricsDone); serveMetrics(ctx, env) }()
	start := runner.Start
	if a.shadow {
		start = runner.(Shadower).Shadow
	}
	err := guard(func() error { return start(ctx) })
	if ctx.Err() == nil {
		if err == nil {
			err = errors.New("the plugin's work ended by itself")
		}
		s.log.Error("Plugin cannot go on", "err", err)
		env.Health.set(pluginv1.State_STATE_FAILED, err.Error())
		s.exit(1)
	} else if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn("Plugin ended with an error", "err", err)
	}
	a.cancel()
	<-metricsDone
}

// Deactivate implements the contract.
func (s *Service) Deactivate(ctx context.Context, _ *pluginv1.DeactivateRequest) (*pluginv1.DeactivateResponse, error) {
	ended, err := s.end(ctx)
	if err != nil {
		return nil, err
	}
	if ended {
		go s.rewarm(s.turned.next()) // ends soon
	}
	return &pluginv1.DeactivateResponse{OpenStreams: s.streams.count()}, nil
}

// Close ends what is active or warm, without an end of the process.
func (s *Service) Close(ctx context.Context) error {
	s.endLife()
	_, err := s.end(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err = errors.Join(err, s.standby.end(ctx)); err == nil && s.active == nil {
		closeRunner(s.runner)
		s.runner, s.standby = nil, nil
	}
	return err
}

// closeRunner has a runner give back what it has; nil: there is none.
func closeRunner(r Runner) {
	if c, ok := r.(Closer); ok {
		c.Close()
	}
}

// end ends the active run and its standby, if there is one, and waits for it.
func (s *Service) end(ctx context.Context) (ended bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return false, nil
	}
	by := time.Now().Add(stopGrace)
	if limit, ok := ctx.Deadline(); ok && s.life.Err() == nil {
		by = limit.Add(-min(finishMargin, time.Until(limit)/2))
	}
	s.active.endBy.Store(&by)
	s.active.cancel()
	select {
	case <-s.active.done:
	case <-ctx.Done():
		return false, status.FromContextError(ctx.Err()).Err()
	}
	if err := s.standby.end(ctx); err != nil {
		return false, status.FromContextError(err).Err()
	}
	closeRunner(s.runner)
	s.active, s.runner, s.standby = nil, nil, nil
	s.streams.tell(true)
	s.turned.fire()
	return true, nil
}

// Health implements the contract.
func (s *Service) Health(_ *pluginv1.HealthRequest, stream grpc.ServerStreamingServer[pluginv1.HealthResponse]) error {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for {
		report, changed, turned := s.report()
		if err := stream.Send(report); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-turned:
		case <-tick.C:
		case <-s.stopped:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}

// report returns the state, and channels that close when it, or what is active or warm,
// changes.
func (s *Service) report() (report *pluginv1.HealthResponse, changed, turned <-chan struct{}) {
	turned = s.turned.next() // before the look: nothing is missed
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil && (s.runner == nil || s.standby.isWarm()) {
		return &pluginv1.HealthResponse{State: pluginv1.State_STATE_STANDBY, OpenStreams: s.streams.count()}, nil, turned
	}
	state, msg, changed := s.env.Health.watch()
	return &pluginv1.HealthResponse{State: state, Message: msg, OpenStreams: s.streams.count()}, changed, turned
}

// Drain implements the contract.
func (s *Service) Drain(ctx context.Context, req *pluginv1.DrainRequest) (*pluginv1.DrainResponse, error) {
	s.mu.Lock()
	runner, active, drained := s.runner, s.active, s.drained
	s.drained = true
	s.mu.Unlock()
	drainer, ok := runner.(Drainer)
	if !ok || active == nil || drained {
		return &pluginv1.DrainResponse{}, nil
	}
	timeout := defaultDrain
	if req.GetTimeout() != nil {
		timeout = req.GetTimeout().AsDuration()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := drainer.Drain(ctx); err != nil {
		return nil, toStatus(fmt.Errorf("drain %s: %w", s.plugin.Name, err))
	}
	return &pluginv1.DrainResponse{}, nil
}

// Stop implements the contract.
func (s *Service) Stop(context.Context, *pluginv1.StopRequest) (*pluginv1.StopResponse, error) {
	s.shutdown()
	return &pluginv1.StopResponse{}, nil
}

// answerGrace lets the answer to Stop reach the caller before the process ends.
const answerGrace = 50 * time.Millisecond

// shutdown ends the work in good order and then the process. It returns when the work
// has ended; a repeated call waits for the first.
func (s *Service) shutdown() {
	s.stop.Do(func() {
		close(s.stopped)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.base), endGrace)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			s.log.Warn("Plugin did not end in time", "err", err)
		}
		time.AfterFunc(answerGrace, func() { s.exit(0) })
	})
}

var _ pluginv1.PluginServiceServer = (*Service)(nil)
