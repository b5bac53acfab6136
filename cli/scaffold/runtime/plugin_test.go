package main

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
	"keelson.dev/keelson/proto/runtime/v1/runtimetest"
)

// TestContract passes the plugin through the suite that every plugin passes.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, plugin)
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			dir := t.TempDir()
			return &pluginv1.ConfigureRequest{
				DataDir: t.TempDir(), RunDir: dir, Listen: dir + "/listen.sock",
				Config: []byte(`{"socket":"` + dir + `/behind.sock"}`),
			}
		},
	})
}

// TestKind passes it through what of the suite of its kind needs no containers, with a
// runtime in memory behind.
func TestKind(t *testing.T) {
	runtimetest.RunIdle(t, runtimetest.IdleOptions{New: func(t *testing.T) *grpc.ClientConn {
		return through(t, "", runtimetest.Empty{}.Register)
	}})
}

// through runs the plugin with a server behind it, and connects with it.
func through(t *testing.T, registries string, register func(*grpc.Server), options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "b.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	register(server)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-served })
	env := kittest.NewEnv(t, plugin)
	env.Config = []byte(`{"socket":"` + socket + `"` + registries + `}`)
	g, err := newGate(env)
	if err != nil {
		t.Fatal(err)
	}
	kittest.Run(t, g)
	return kittest.Dial(t, env.Listen)
}

// TestPassesOn: each method of CRI comes through as it is, with fields that this program
// does not know.
func TestPassesOn(t *testing.T) {
	const answers = 3 // to a stream
	conn := through(t, "", func(*grpc.Server) {}, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		in := new(frame)
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		if method, _ := grpc.MethodFromServerStream(s); streams(method) {
			return errors.Join(s.SendMsg(in), s.SendMsg(in), s.SendMsg(in))
		}
		return s.SendMsg(in)
	}))
	in := new(frame)
	in.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "of tomorrow"))
	for _, service := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			if m.MethodName == "PullImage" {
				continue // looked at, below
			}
			out := new(frame)
			if err := conn.Invoke(t.Context(), "/"+service.ServiceName+"/"+m.MethodName, in, out); err != nil || !proto.Equal(in, out) {
				t.Errorf("%s: got %v, %v, want what was sent", m.MethodName, out, err)
			}
		}
		for _, m := range service.Streams {
			if got, err := receive(t.Context(), conn, "/"+service.ServiceName+"/"+m.StreamName, in); err != nil || got != answers {
				t.Errorf("%s: got %d answers, %v, want %d", m.StreamName, got, err, answers)
			}
		}
	}
}

func streams(method string) bool {
	for _, service := range []grpc.ServiceDesc{cri.RuntimeService_ServiceDesc, cri.ImageService_ServiceDesc} {
		for _, m := range service.Streams {
			if method == "/"+service.ServiceName+"/"+m.StreamName {
				return true
			}
		}
	}
	return false
}

// receive counts the answers that are what was sent.
func receive(ctx context.Context, conn *grpc.ClientConn, method string, in *frame) (n int, err error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(stream.SendMsg(in), stream.CloseSend()); err != nil {
		return 0, err
	}
	for {
		out := new(frame)
		if err := stream.RecvMsg(out); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
		if proto.Equal(in, out) {
			n++
		}
	}
}

// TestRegistries: images of others are not pulled.
func TestRegistries(t *testing.T) {
	client := cri.NewImageServiceClient(through(t, `,"registries":["registry.k8s.io"]`, runtimetest.Empty{}.Register))
	for image, want := range map[string]codes.Code{"registry.k8s.io/pause:3.10": codes.OK, "nginx": codes.PermissionDenied, "example.org/registry.k8s.io/pause": codes.PermissionDenied} {
		got, err := client.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
		if status.Code(err) != want || want == codes.OK && got.GetImageRef() != image {
			t.Errorf("pull %s: got %v, %v, want %s", image, got, err, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"registries":["localhost:5000"]}`, ""},
		{`{"socket":"containerd.sock"}`, "socket: Invalid value"},
		{`{"registries":["docker.io/library"]}`, "registries[0]: Invalid value"},
		{`{"sockets":[]}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newGate(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}
