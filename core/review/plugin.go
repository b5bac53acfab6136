package review

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	admissionv1 "keelson.dev/keelson/proto/admission/v1"
	authenticationv1 "keelson.dev/keelson/proto/authentication/v1"
	authorizationv1 "keelson.dev/keelson/proto/authorization/v1"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// maxMessage bounds a message in bytes: an object of the API is smaller, twice.
	maxMessage = 16 << 20
	// againPause lets a process that was deactivated hang up before a call is repeated.
	againPause = 5 * time.Millisecond
	// probePause is the time between two probes of a plugin that does not answer.
	probePause = time.Second
	// probeTimeout bounds a probe and the question for hooks.
	probeTimeout = 5 * time.Second
)

// plugin is one that is asked.
type plugin struct {
	set                *Set
	name, kind, socket string
	conn               *grpc.ClientConn
	life               context.Context
	end                context.CancelFunc

	down    atomic.Pointer[string] // why nothing runs; nil: something does, or will
	failing atomic.Pointer[string] // why it is not waited for; nil: it is
	answers atomic.Pointer[answers]
	batch   batcher
	shadow  atomic.Pointer[shadow] // that is asked beside it; nil: there is none

	// Guarded by the set's mu.
	known    bool // what it wants is known, so that it is asked
	instance string
	learnt   chan struct{} // closed when what the instance wants is in force; nil: it is
	heard    chan struct{} // closed when that, or fault, is known; nil: it is
	fault    string        // why what it wants is not in force; empty: it is, or nothing is known yet
	hooks    []*hook
	// denyOnFailure is written with the set's mu held, before known is.
	denyOnFailure atomic.Bool
}

// newPlugin makes a plugin that is not asked yet. Without a connection it is of no use.
func (s *Set) newPlugin(name, kind, socket string) *plugin {
	register()
	p := &plugin{set: s, name: name, kind: kind, socket: socket}
	p.life, p.end = context.WithCancel(s.life)
	var err error
	p.conn, err = grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		s.log.Error("Plugin is not asked: no client for its socket", "plugin", name, "socket", socket, "err", err)
		p.end()
		return p
	}
	p.forget()
	why := "its process has not been started yet"
	p.down.Store(&why)
	return p
}

func (p *plugin) close() {
	p.end()
	if p.conn != nil {
		_ = p.conn.Close() // closed twice is all that it could say
	}
	if p.learnt != nil {
		close(p.learnt)
		p.learnt = nil
	}
	p.tell()
	suspended.WithLabelValues(p.kind, p.name).Set(0)
}

// renew is for a new process: nothing of the one before it counts; the set's mu is held.
func (p *plugin) renew(instance string) {
	p.instance, p.fault = instance, ""
	if p.learnt == nil {
		p.learnt = make(chan struct{})
	}
	if p.heard == nil {
		p.heard = make(chan struct{})
	}
	p.forget()
	p.conn.ResetConnectBackoff()
}

// tell ends the wait of Settle; the set's mu is held.
func (p *plugin) tell() {
	if p.heard != nil {
		close(p.heard)
		p.heard = nil
	}
}

// wishes asks the plugin what it wants.
func (p *plugin) wishes(ctx context.Context, capabilities []string) (*record, error) {
	r := &record{Kind: p.kind, Socket: p.socket}
	switch p.kind {
	case Authorization:
		r.DenyOnFailure = slices.Contains(capabilities, authorizationv1.CapabilityDenyOnFailure)
	case Admission:
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		got, err := admissionv1.NewAdmissionServiceClient(p.conn).Hooks(ctx, &admissionv1.HooksRequest{})
		if err != nil {
			return nil, fmt.Errorf("ask for hooks: %s", status.Convert(err).Message())
		}
		return r, r.setHooks(got)
	}
	return r, nil
}

// adopt puts in force what a record has; the set's mu is held.
func (p *plugin) adopt(r *record) error {
	hooks, err := r.hooks(p)
	if err != nil {
		return err
	}
	p.hooks = hooks
	p.denyOnFailure.Store(r.DenyOnFailure)
	p.known = true
	return nil
}

// call asks the plugin something, within timeout.
func (p *plugin) call(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	if why := p.down.Load(); why != nil {
		return errors.New(*why)
	}
	if why := p.failing.Load(); why != nil {
		return fmt.Errorf("it does not answer (%s)", *why)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	inTime, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := f(inTime)
	for deactivated(err) && pause(inTime, againPause) { // the next process takes it
		err = f(inTime)
	}
	if err == nil {
		return nil
	}
	reason := status.Convert(err).Message()
	if inTime.Err() != nil && ctx.Err() == nil {
		reason = fmt.Sprintf("no answer within %s", timeout)
	}
	if ctx.Err() == nil && inTime.Err() != nil {
		p.suspend(reason)
	}
	return errors.New(reason)
}

// deactivated tells whether a call reached the process that has just given way.
func deactivated(err error) bool {
	return status.Code(err) == codes.Unavailable && status.Convert(err).Message() == pluginv1.Deactivated
}

// pause waits for d; false: ctx has ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// suspend has calls fail at once until a probe is answered.
func (p *plugin) suspend(why string) {
	if !p.failing.CompareAndSwap(nil, &why) {
		return
	}
	suspended.WithLabelValues(p.kind, p.name).Set(1)
	p.set.log.Warn("Plugin does not answer: it is asked again when it answers a probe", "plugin", p.name, "kind", p.kind, "reason", why)
	p.spawn(p.probe) // ends with an answer, the plugin or the set
}

// spawn starts a goroutine that the set waits for; false: it has ended.
func (p *plugin) spawn(f func()) bool {
	p.set.mu.Lock()
	defer p.set.mu.Unlock()
	if p.life.Err() != nil {
		return false
	}
	p.set.wg.Go(f)
	return true
}

func (p *plugin) probe() {
	for {
		err := p.ping()
		if err == nil {
			break
		}
		select {
		case <-p.life.Done():
			return
		case <-time.After(probePause):
		}
	}
	p.set.log.Info("Plugin answers again", "plugin", p.name, "kind", p.kind)
	suspended.WithLabelValues(p.kind, p.name).Set(0)
	p.failing.Store(nil)
}

// ping is a question without meaning. Any answer of the plugin itself is one.
func (p *plugin) ping() error {
	ctx, cancel := context.WithTimeout(p.life, probeTimeout)
	defer cancel()
	var err error
	switch p.kind {
	case Admission:
		_, err = admissionv1.NewAdmissionServiceClient(p.conn).Hooks(ctx, &admissionv1.HooksRequest{})
	case Authentication:
		_, err = authenticationv1.NewAuthenticationServiceClient(p.conn).Review(ctx, &authenticationv1.ReviewRequest{})
	case Authorization:
		_, err = authorizationv1.NewAuthorizationServiceClient(p.conn).Review(ctx, &authorizationv1.ReviewRequest{})
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return err
	}
	return nil
}

// register makes the metrics known when there is the first plugin.
var register = sync.OnceFunc(registerMetrics)
