package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit"
)

// askEvery is how often the runtime behind is asked how it is.
const askEvery = 5 * time.Second

// gate is one activation of the plugin.
type gate struct {
	env    *kit.Env
	config Config
	calls  *prometheus.CounterVec
}

// newGate checks the configuration and allocates. It starts nothing.
func newGate(env *kit.Env) (*gate, error) {
	g := &gate{env: env, calls: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "keelson_cri_gate_calls_total", Help: "Calls that were passed on, by method and code.",
	}, []string{"method", "code"})}
	if err := env.LoadConfig(&g.config); err != nil {
		return nil, err
	}
	return g, env.Metrics.Register(g.calls)
}

// Start serves until ctx ends. The containers are those of the runtime behind, and stay.
func (g *gate) Start(ctx context.Context) error {
	behind, err := kit.DialSocket(g.config.Socket)
	if err != nil {
		return err
	}
	defer func() { _ = behind.Close() }()
	p := &passage{behind: behind, instead: map[string]unaryCall{
		cri.ImageService_PullImage_FullMethodName: g.pullImage,
	}, done: g.done}
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan struct{})
	go func() { defer close(followed); g.follow(ctx, behind) }() // ends with ctx
	err = g.env.ServeGRPC(ctx, func(s *grpc.Server) {
		p.register(s, cri.RuntimeService_ServiceDesc)
		p.register(s, cri.ImageService_ServiceDesc)
	}, kit.LiveOn(cri.RuntimeService_GetContainerEvents_FullMethodName))
	cancel()
	<-followed
	return err
}

// follow says how the runtime behind is.
func (g *gate) follow(ctx context.Context, behind *grpc.ClientConn) {
	client := cri.NewRuntimeServiceClient(behind)
	g.env.Health.SetStarting("waiting for " + g.config.Socket)
	for {
		call, cancel := context.WithTimeout(ctx, askEvery)
		version, err := client.Version(call, &cri.VersionRequest{})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			g.env.Health.SetDegraded(fmt.Sprintf("%s: %s", g.config.Socket, status.Convert(err).Message()))
		default:
			g.env.Log.Debug("The runtime answers", "name", version.GetRuntimeName(), "version", version.GetRuntimeVersion())
			g.env.Health.SetReady()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(askEvery):
		}
	}
}

// done notes how a call went.
func (g *gate) done(method string, err error) {
	g.calls.WithLabelValues(method, status.Code(err).String()).Inc()
}

// pullImage refuses images of other registries than the configuration allows. A call of
// one's own for any other method is made in the same way.
func (g *gate) pullImage(ctx context.Context, request []byte, pass func(context.Context) (*frame, error)) (*frame, error) {
	var r cri.PullImageRequest
	if err := unmarshal(request, &r); err != nil {
		return nil, err
	}
	if image := r.GetImage().GetImage(); !g.config.allows(image) {
		g.env.Log.Info("Refused to pull an image", "image", image)
		return nil, status.Errorf(codes.PermissionDenied, "image %q: its registry is none of %v", image, g.config.Registries)
	}
	return pass(ctx)
}

var _ kit.Runner = (*gate)(nil)
