package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
)

// embedBuffer is that of one direction of the connection in memory, in bytes.
const embedBuffer = 4 << 10

// errEnded is how a plugin in the kernel's process ended that could not go on; its log says
// why.
var errEnded = errors.New("with a failure")

// Embed runs a plugin within the kernel's process: it serves the base contract on
// listener, as Main does in a process of its own, and returns when the plugin and all that
// it began have ended: with nil after Stop, and when ctx has ended, which is the way to
// end it at once. A plugin that does not end keeps Embed from returning.
//
// handover is the plugin's end of the handover socket, over which it gets the sockets that
// the kernel keeps; Embed closes it. output takes the log. What is the process's is left
// alone: signals, klog, memory settings, the environment and the working folder.
func Embed(ctx context.Context, p Plugin, listener net.Listener, handover *os.File, output io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	level := &slog.LevelVar{}
	log := slog.New(slog.NewJSONHandler(output, &slog.HandlerOptions{Level: level}))
	ended := make(chan int, 1)
	service := NewService(ctx, p, log, level, func(code int) {
		select {
		case ended <- code:
		default: // it has ended for another reason
		}
	})
	service.embedded = true
	var wg sync.WaitGroup
	defer wg.Wait()
	if handover != nil {
		kernel, err := openKernel(handover)
		if err != nil {
			return err
		}
		defer kernel.close()
		service.sockets = kernel.sockets
		wg.Go(kernel.wait) // ends with the connection, which is closed before
	}
	server := grpc.NewServer(grpc.ReadBufferSize(embedBuffer), grpc.WriteBufferSize(embedBuffer), grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(service.guardUnary), grpc.StreamInterceptor(service.guardStream))
	pluginv1.RegisterPluginServiceServer(server, service)
	wg.Go(func() { _ = server.Serve(listener) }) // ends with Stop, below

	code := 0
	select {
	case <-ctx.Done():
	case code = <-ended:
	}
	cancel()
	server.Stop()
	err := service.Close(context.WithoutCancel(ctx))
	service.hangUp()
	if code != 0 {
		return errEnded
	}
	return err
}

// guardUnary makes a panic in a call the end of the plugin, and not of the kernel.
func (s *Service) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.panicked(info.FullMethod, r)
		}
	}()
	return handler(ctx, req)
}

func (s *Service) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.panicked(info.FullMethod, r)
		}
	}()
	return handler(srv, stream)
}

// panicked ends the plugin for a panic.
func (s *Service) panicked(where string, r any) error {
	s.fail(fmt.Errorf("%s: panic: %v\n%s", where, r, debug.Stack()))
	return status.Errorf(codes.Internal, "%s: panic: %v", where, r)
}

// fail ends the plugin with an error.
func (s *Service) fail(err error) {
	s.log.Error("Plugin cannot go on", "err", err)
	s.exit(1)
}
