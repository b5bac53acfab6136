package exec

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"keelson.dev/keelson/plugins/kit"
)

// Server runs one program.
type Server struct {
	env   *kit.Env
	cfg   Config
	vars  map[string]string
	dir   string // FILES_DIR
	owner *owner
	out   io.Writer // takes the program's lines

	renewed chan struct{} // holds one token when the program is to read its certificate anew

	mu     sync.Mutex // guards client
	client kit.KeyPair
}

var (
	_ kit.Runner  = (*Server)(nil)
	_ kit.Renewer = (*Server)(nil)
)

// New checks the configuration, and that the program is there. For a warm standby it
// returns a Warm.
func New(env *kit.Env) (kit.Runner, error) {
	s := &Server{
		env: env, out: log(), renewed: make(chan struct{}, 1),
		client: kit.KeyPair{Certificate: env.API.Cert, PrivateKey: env.API.Key},
	}
	if err := env.LoadConfig(&s.cfg); err != nil {
		return nil, err
	}
	var err error
	if s.dir, err = folder(env); err != nil {
		return nil, err
	}
	s.vars = variables(env, s.dir)
	s.cfg.expandAll(s.vars)
	if err := s.placed(); err != nil {
		return nil, err
	}
	if err := s.cfg.checkCommand(); err != nil {
		return nil, err
	}
	s.owner, _ = s.cfg.owner() // was checked
	if s.cfg.Standby == warm {
		return &Warm{Server: s, up: make(chan struct{})}, nil
	}
	return s, nil
}

// log is the plugin's standard error, where the kernel reads its log. It is a descriptor
// of our own: os.Stderr is replaced by go-plugin.
var log = sync.OnceValue(func() io.Writer {
	fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return io.Discard
	}
	return os.NewFile(uintptr(fd), "log")
})

// Start runs the program until ctx ends. Its end is an error, but for a restart after a
// renewal.
func (s *Server) Start(ctx context.Context) error {
	return s.run(ctx, func(err error) {
		if err != nil {
			s.env.Health.SetDegraded(fmt.Sprintf("the health check fails: %v", err))
		} else {
			s.env.Health.SetReady()
		}
	})
}

// run runs the program until ctx ends; told gets its health.
func (s *Server) run(ctx context.Context, told func(error)) error {
	for {
		again, err := s.once(ctx, told)
		if !again {
			return err
		}
	}
}

// once runs one process. again: it ended since its certificate was replaced.
func (s *Server) once(ctx context.Context, told func(error)) (again bool, err error) {
	p, err := s.start()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	checked := make(chan error, 1)
	go func() { // ends with once
		if err := s.watch(ctx, told); err != nil {
			checked <- err
		}
		close(checked)
	}()
	defer func() {
		cancel()
		for range checked {
			continue // until it has ended
		}
	}()
	unhealthy := checked
	for {
		select {
		case <-p.done:
			return false, p.ended()
		case err, fault := <-unhealthy:
			if fault {
				s.end(p)
				return false, err
			}
			unhealthy = nil // nothing is looked at
		case <-s.renewed:
			if s.cfg.RestartOnRenew {
				s.env.Log.Info("Program is restarted for its new certificate", "command", s.cfg.Command)
				s.end(p)
				return ctx.Err() == nil, nil
			}
		case <-ctx.Done():
			s.end(p)
			return false, nil
		}
	}
}

func (s *Server) end(p *program) {
	p.stop(unix.SignalNum(s.cfg.StopSignal), time.Duration(*s.cfg.StopGraceSeconds)*time.Second)
	s.env.Log.Info("Program stopped", "command", s.cfg.Command, "pid", p.cmd.Process.Pid)
}

// Renewed implements kit.Renewer.
func (s *Server) Renewed(client kit.KeyPair) error {
	s.mu.Lock()
	s.client = client
	s.mu.Unlock()
	if err := s.writeCredentials(); err != nil {
		return err
	}
	select {
	case s.renewed <- struct{}{}:
	default: // it has yet to look
	}
	return nil
}

// Warm is a Server whose program runs from the configuration on: it elects a leader, so
// that several may run and one acts.
type Warm struct {
	*Server
	up    chan struct{} // closed when the program has come to work
	one   sync.Once
	taken atomic.Bool // by Warm, or by a Start that came first
}

// Warm runs the program until ctx ends, and calls warm when it works for the first time.
func (w *Warm) Warm(ctx context.Context, warm func()) error {
	if !w.taken.CompareAndSwap(false, true) {
		return nil // Start was first
	}
	return w.run(ctx, func(err error) {
		if err != nil {
			w.env.Health.SetDegraded(fmt.Sprintf("the health check fails: %v", err))
			return
		}
		w.one.Do(func() { close(w.up); warm() })
		w.env.Health.SetReady()
	})
}

// Start waits: the program runs already, and whether it acts is between it and the
// others of its kind.
func (w *Warm) Start(ctx context.Context) error {
	if w.taken.CompareAndSwap(false, true) {
		return w.Server.Start(ctx)
	}
	select {
	case <-w.up:
		w.env.Health.SetReady()
		<-ctx.Done()
	case <-ctx.Done():
	}
	return nil
}
