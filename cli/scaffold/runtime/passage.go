package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// passage passes calls on as they are. It knows the methods of a service and not their
// messages, so that fields of a newer CRI than this program's pass as well.
type passage struct {
	behind  *grpc.ClientConn
	instead map[string]unaryCall           // calls of our own, by method
	done    func(method string, err error) // is told of each call
}

// frame is any message: one without fields keeps those that it does not know.
type frame = emptypb.Empty

// unaryCall answers a call itself, or passes it on.
type unaryCall func(ctx context.Context, request []byte, pass func(context.Context) (*frame, error)) (*frame, error)

// register serves the methods of a service.
func (p *passage) register(s *grpc.Server, service grpc.ServiceDesc) {
	passed := grpc.ServiceDesc{ServiceName: service.ServiceName, HandlerType: (*any)(nil), Metadata: service.Metadata}
	for _, m := range service.Methods {
		passed.Methods = append(passed.Methods, grpc.MethodDesc{MethodName: m.MethodName, Handler: p.unary("/" + service.ServiceName + "/" + m.MethodName)})
	}
	for _, m := range service.Streams {
		m.Handler = p.stream("/"+service.ServiceName+"/"+m.StreamName, m)
		passed.Streams = append(passed.Streams, m)
	}
	s.RegisterService(&passed, p)
}

func (p *passage) unary(method string) grpc.MethodHandler {
	call := func(ctx context.Context, in *frame) (*frame, error) {
		pass := func(ctx context.Context) (*frame, error) {
			out := new(frame)
			return out, p.behind.Invoke(ctx, method, in, out)
		}
		if own := p.instead[method]; own != nil {
			return own(ctx, in.ProtoReflect().GetUnknown(), pass)
		}
		return pass(ctx)
	}
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := new(frame)
		if err := decode(in); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, in any) (any, error) {
			out, err := call(ctx, in.(*frame))
			p.done(method, err)
			return out, err
		}
		if intercept == nil {
			return handle(ctx, in)
		}
		return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, handle)
	}
}

// stream passes what one side sends to the other. CRI's streams are the server's.
func (p *passage) stream(method string, desc grpc.StreamDesc) grpc.StreamHandler {
	return func(_ any, front grpc.ServerStream) (err error) {
		defer func() { p.done(method, err) }()
		request := new(frame)
		if err := front.RecvMsg(request); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(front.Context())
		defer cancel()
		behind, err := p.behind.NewStream(ctx, &desc, method)
		if err != nil {
			return err
		}
		if err := errors.Join(behind.SendMsg(request), behind.CloseSend()); err != nil && !errors.Is(err, io.EOF) { // of EOF, RecvMsg tells why
			return err
		}
		if header, err := behind.Header(); err == nil { // callers wait for it: the stream has begun
			if err := front.SendHeader(header); err != nil {
				return err
			}
		}
		for {
			answer := new(frame)
			err := behind.RecvMsg(answer)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := front.SendMsg(answer); err != nil {
				return err
			}
		}
	}
}

// unmarshal reads a message for a call of one's own.
func unmarshal(request []byte, into proto.Message) error {
	if err := proto.Unmarshal(request, into); err != nil {
		return status.Errorf(codes.InvalidArgument, "%s: %v", into.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}
