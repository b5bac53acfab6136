package kit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

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

	mu      sync.Mutex // guards what follows; held while New runs, not while Start does
	config  *pluginv1.ConfigureRequest
	env     *Env
	runner  Runner        // made and not yet started, or the active one
	active  *activation   // nil: standby
	turned  chan struct{} // closed and replaced when active changes
	drained bool
	stopped chan struct{} // closed by Stop: Health streams end
	stop    sync.Once
}

// activation is one run of Start.
type activation struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when Start has returned
}

// NewService makes the service. ctx is the life of the process; exit ends it (os.Exit)
// and is called from a goroutine of the service after a failure (1) or Stop (0).
func NewService(ctx context.Context, p Plugin, log *slog.Logger, level *slog.LevelVar, exit func(code int)) *Service {
	return &Service{plugin: p, log: log, level: level, exit: exit, base: ctx, turned: make(chan struct{}), stopped: make(chan struct{})}
}

// Describe implements the contract.
func (s *Service) Describe(context.Context, *pluginv1.DescribeRequest) (*pluginv1.DescribeResponse, error) {
	return describe(s.plugin), nil
}

// Configure implements the contract.
func (s *Service) Configure(_ context.Context, req *pluginv1.ConfigureRequest) (*pluginv1.ConfigureResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil {
		return nil, status.Error(codes.FailedPrecondition, "configure: the plugin is active; deactivate it first")
	}
	if err := setLevel(s.level, req.GetLogLevel()); err != nil {
		return nil, err
	}
	if err := s.makeRunner(req); err != nil {
		return nil, err
	}
	s.config = req
	return &pluginv1.ConfigureResponse{}, nil
}

// makeRunner makes the environment and the runner for a configuration.
func (s *Service) makeRunner(req *pluginv1.ConfigureRequest) (err error) {
	env, err := newEnv(s.plugin, req, s.log)
	if err != nil {
		return err
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
	s.env, s.runner = env, runner
	return nil
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
	return &pluginv1.RenewResponse{}, nil
}

// Activate implements the contract.
func (s *Service) Activate(context.Context, *pluginv1.ActivateRequest) (*pluginv1.ActivateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil {
		return nil, status.Error(codes.FailedPrecondition, "activate: the plugin is not configured")
	}
	if s.active != nil {
		return &pluginv1.ActivateResponse{}, nil
	}
	if s.runner == nil {
		if err := s.makeRunner(s.config); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(s.base)
	s.active = &activation{cancel: cancel, done: make(chan struct{})}
	s.drained = false
	s.turn()
	s.env.Health.SetStarting("")
	go s.run(ctx, s.active, s.env, s.runner)
	return &pluginv1.ActivateResponse{}, nil
}

// run is the goroutine of one activation; Deactivate, Stop or the end of the process
// ends it. A runner that ends by itself takes the process with it.
func (s *Service) run(ctx context.Context, a *activation, env *Env, runner Runner) {
	defer close(a.done)
	metricsDone := make(chan struct{})
	go func() { defer close(metricsDone); serveMetrics(ctx, env) }()
	err := start(ctx, runner)
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

// start calls Start and makes a panic an error with its stack.
func start(ctx context.Context, runner Runner) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return runner.Start(ctx)
}

// Deactivate implements the contract.
func (s *Service) Deactivate(ctx context.Context, _ *pluginv1.DeactivateRequest) (*pluginv1.DeactivateResponse, error) {
	if err := s.end(ctx); err != nil {
		return nil, err
	}
	return &pluginv1.DeactivateResponse{}, nil
}

// end ends the active run, if there is one, and waits for it.
func (s *Service) end(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return nil
	}
	s.active.cancel()
	select {
	case <-s.active.done:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	s.active, s.runner = nil, nil
	s.turn()
	return nil
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

// report returns the state, and channels that close when it, or what is active, changes.
func (s *Service) report() (report *pluginv1.HealthResponse, changed, turned <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return &pluginv1.HealthResponse{State: pluginv1.State_STATE_STANDBY}, nil, s.turned
	}
	state, msg, changed := s.env.Health.watch()
	return &pluginv1.HealthResponse{State: state, Message: msg}, changed, s.turned
}

// turn wakes the Health streams; s.mu is held.
func (s *Service) turn() {
	close(s.turned)
	s.turned = make(chan struct{})
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
		if err := s.end(ctx); err != nil {
			s.log.Warn("Plugin did not end in time", "err", err)
		}
		time.AfterFunc(answerGrace, func() { s.exit(0) })
	})
}

var _ pluginv1.PluginServiceServer = (*Service)(nil)
