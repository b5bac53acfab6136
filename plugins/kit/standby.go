package kit

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// WarmStandby is a Runner that gets ready ahead of Start, while another process of the
// plugin may be active.
type WarmStandby interface {
	Runner
	// Warm runs from Configure on. It fills caches, calls warm once when they are full,
	// and keeps them up to date until ctx ends, which is after Start has returned. It
	// changes nothing outside of the process, and takes nothing that only one process
	// may have. Start may be called before it is warm. An error or a panic ends the process.
	Warm(ctx context.Context, warm func()) error
}

// standby is one run of Warm.
type standby struct {
	cancel context.CancelFunc
	warm   chan struct{} // closed when the caches are full
	done   chan struct{} // closed when Warm has returned
}

// isWarm holds for a runner that has nothing to warm, too.
func (s *standby) isWarm() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.warm:
		return true
	default:
		return false
	}
}

// end ends the run and waits for it, or for ctx.
func (s *standby) end(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// startStandby begins to warm the runner; s.mu is held.
func (s *Service) startStandby() {
	s.standby = nil
	if w, ok := s.runner.(WarmStandby); ok {
		s.env.Health.SetStarting("the caches are filling")
		ctx, cancel := context.WithCancel(s.base)
		s.standby = &standby{cancel: cancel, warm: make(chan struct{}), done: make(chan struct{})}
		go s.warm(ctx, s.standby, s.env, w)
	}
	s.turned.fire()
}

// warm is the goroutine of one standby. A runner that cannot get warm takes the process
// with it.
func (s *Service) warm(ctx context.Context, st *standby, env *Env, runner WarmStandby) {
	defer close(st.done)
	defer st.cancel()
	ready := sync.OnceFunc(func() {
		close(st.warm)
		s.turned.fire()
	})
	err := guard(func() error { return runner.Warm(ctx, ready) })
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		s.log.Error("Plugin cannot get warm", "err", err)
		env.Health.set(pluginv1.State_STATE_FAILED, err.Error())
		s.exit(1)
		return
	}
	ready()
}

// guard makes a panic an error with its stack.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// rewarmAfter is how long a process that was deactivated leaves processor and API to the
// one that takes over.
const rewarmAfter = 500 * time.Millisecond

// rewarm makes the runner of the next activation, a while after a deactivation: it decides
// from nothing that the earlier one knew. turned fires when the process is activated before.
func (s *Service) rewarm(turned <-chan struct{}) {
	timer := time.NewTimer(rewarmAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-turned:
	case <-s.life.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil || s.runner != nil || s.life.Err() != nil {
		return
	}
	if err := s.makeRunner(s.config); err != nil {
		s.log.Warn("The standby is not warm; the next activation tries again", "err", err)
		return
	}
	s.startStandby()
}

// runKey is the key of an activation in the context of Start.
type runKey struct{}

// finishMargin is what of the time for a deactivation is kept back, to answer in time.
const finishMargin = 500 * time.Millisecond

// Finish is a context for finishing what was begun before ctx, that of Start, ended: an
// API write, a call under way. It lives until Deactivate has to answer (two seconds after
// a Stop) and is not to be made before ctx has ended.
func Finish(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline := time.Now().Add(stopGrace)
	if a, ok := ctx.Value(runKey{}).(*activation); ok {
		if by := a.endBy.Load(); by != nil {
			deadline = *by
		}
	}
	return context.WithDeadline(context.WithoutCancel(ctx), deadline)
}

// FinishCalls is a context that outlives ctx, that of Start, as long as Finish allows:
// for requests that are to be finished when they have been begun.
func FinishCalls(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		end, done := Finish(ctx)
		context.AfterFunc(end, cancel)
		context.AfterFunc(out, done)
	})
	return out, func() { stop(); cancel() }
}

// wakeup wakes all that wait for its next firing.
type wakeup struct {
	mu sync.Mutex // guards ch
	ch chan struct{}
}

// next is a channel that closes at the next firing.
func (s *wakeup) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *wakeup) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
