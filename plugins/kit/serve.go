package kit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

const (
	// stopGrace is how long calls under way may take when a process ends.
	stopGrace = 2 * time.Second
	// quiet is how long no call has come when a server that others' calls keep counts
	// as left: a caller learns within it that it has to connect anew.
	quiet = 20 * time.Millisecond
)

// errDeactivated ends calls; the caller's next try reaches the process that took over.
var errDeactivated = errors.New(pluginv1.Deactivated)

// ServeOption says what becomes of calls under way when an activation ends. Without, they
// are finished, and cut off with UNAVAILABLE when Deactivate has to answer.
type ServeOption func(*callServer)

// Interrupt ends calls of these methods ("/runtime.v1.RuntimeService/StopContainer") at
// once, with UNAVAILABLE: calls that mostly wait, and may be repeated.
func Interrupt(methods ...string) ServeOption { return setClass(interrupted, methods) }

// LiveOn lets calls of these methods go on in the deactivated process to their end: they
// change nothing that the process that took over needs to know.
func LiveOn(methods ...string) ServeOption { return setClass(livingOn, methods) }

func setClass(class callClass, methods []string) ServeOption {
	return func(s *callServer) {
		for _, m := range methods {
			s.classes[m] = class
		}
	}
}

type callClass int

const (
	finished callClass = iota
	interrupted
	livingOn
)

// callServer follows the calls of one gRPC server through the end of an activation.
type callServer struct {
	classes map[string]callClass
	ctx     context.Context // of Start
	cut     context.Context // ends when finished calls are out of time
	endCut  context.CancelFunc

	mu     sync.Mutex // guards all below
	closed bool       // calls are refused
	open   int        // calls that are waited for
	last   time.Time  // when a call came or ended
}

// ServeGRPC serves on e.Listen until ctx ends, and returns when calls under way have ended,
// as the options say. The kernel keeps the socket: callers that come meanwhile wait for
// the next process, and open connections are told to go there.
func (e *Env) ServeGRPC(ctx context.Context, register func(*grpc.Server), options ...ServeOption) error {
	if e.Listen == "" {
		return fmt.Errorf("serve the contract of plugin %s: its kind has no socket", e.Name)
	}
	listener, err := e.Listener(ctx, "unix", e.Listen)
	if ctx.Err() != nil && err != nil {
		return nil //nolint:nilerr // told to end while it waited
	}
	if err != nil {
		return err
	}
	calls := &callServer{ctx: ctx, classes: map[string]callClass{}}
	calls.cut, calls.endCut = context.WithCancel(context.WithoutCancel(ctx))
	for _, o := range options {
		o(calls)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(calls.unary), grpc.ChainStreamInterceptor(calls.stream))
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // ends with the server, below
	select {
	case err = <-served:
		calls.endCut()
		return fmt.Errorf("serve on %s: %w", e.Listen, err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() { // ends with the last call; those that live on end with the process
		defer close(stopped)
		stop := context.AfterFunc(e.Life(), server.Stop)
		defer stop()
		server.GracefulStop()
		calls.endCut()
	}()
	calls.wait(stopped, server)
	return nil // Serve itself returns after the last call that lives on
}

// wait waits for the calls that are to be finished, and cuts them when their time is over.
func (s *callServer) wait(stopped <-chan struct{}, server *grpc.Server) {
	end, cancel := Finish(s.ctx)
	defer cancel()
	tick := time.NewTicker(quiet / 4)
	defer tick.Stop()
	for !s.left() {
		select {
		case <-stopped:
			return
		case <-tick.C:
			continue
		case <-end.Done():
		}
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.endCut()
		select { // handlers look at their context
		case <-stopped:
		case <-time.After(finishMargin / 2):
			server.Stop()
		}
		return
	}
}

// left tells whether only calls that live on are open, and none came of late. From then
// on others are refused.
func (s *callServer) left() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = s.open == 0 && time.Since(s.last) > quiet
	return s.closed
}

// begin takes a call in. The function returned ends it and makes the error to answer.
func (s *callServer) begin(ctx context.Context, method string) (context.Context, func(error) error, error) {
	class := s.classes[method]
	if class == livingOn {
		return ctx, func(err error) error { return err }, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || class == interrupted && s.ctx.Err() != nil {
		return nil, nil, status.Error(codes.Unavailable, errDeactivated.Error())
	}
	s.open++
	s.last = time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	until := s.cut
	if class == interrupted {
		until = s.ctx
	}
	stop := context.AfterFunc(until, func() { cancel(errDeactivated) })
	return ctx, func(err error) error {
		stop()
		if err != nil && errors.Is(context.Cause(ctx), errDeactivated) {
			err = status.Error(codes.Unavailable, errDeactivated.Error())
		}
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		s.last = time.Now()
		return err
	}, nil
}

func (s *callServer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	ctx, end, err := s.begin(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer func() { err = end(err) }()
	return handler(ctx, req)
}

func (s *callServer) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx, end, err := s.begin(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer func() { err = end(err) }()
	return handler(srv, &callStream{ServerStream: ss, ctx: ctx})
}

// callStream is a stream with another context.
type callStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *callStream) Context() context.Context { return s.ctx }
