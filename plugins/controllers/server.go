package controllers

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/kit"
)

// Server runs the controllers.
type Server struct {
	env         *kit.Env
	config      Config
	context     *control.Context
	controllers map[string]controller
	filled      chan struct{} // closed when the caches are
}

var (
	_ kit.WarmStandby = (*Server)(nil)
	_ kit.Closer      = (*Server)(nil)
)

// New makes the controllers that the configuration asks for.
func New(env *kit.Env) (*Server, error) {
	s := &Server{env: env, filled: make(chan struct{})}
	if err := env.LoadConfig(&s.config); err != nil {
		return nil, err
	}
	if env.RESTConfig == nil {
		return s, nil
	}
	client, err := env.Clientset()
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	meta, err := metadata.NewForConfig(metadata.ConfigFor(rest.CopyConfig(env.RESTConfig)))
	if err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	metrics, err := control.NewMetrics(env.Metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	s.context = &control.Context{
		Client: client, Metadata: meta, Discovery: client.Discovery(), REST: env.RESTConfig, Log: env.Log, Metrics: metrics,
		Informers: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(control.TrimManagedFields)),
		PodCIDRs:  env.Cluster.PodCIDRs, CA: env.API.CA, Broadcaster: record.NewBroadcaster(),
	}
	return s, s.build()
}

func (s *Server) build() error {
	if err := control.AddIndexes(s.context.Informers); err != nil {
		return err
	}
	s.controllers = map[string]controller{}
	for _, d := range definitions {
		if !s.config.enabled(d.name) {
			continue
		}
		c, err := d.make(s.context, &s.config)
		if err != nil {
			return fmt.Errorf("make controller %s: %w", d.name, err)
		}
		s.controllers[d.name] = c
	}
	return nil
}

// warmer is a controller that keeps more than the shared informers while in standby.
type warmer interface {
	Warm(ctx context.Context) error
}

// Warm fills the caches and keeps them. Keys wait in the controllers' queues.
func (s *Server) Warm(ctx context.Context, warm func()) error {
	if s.context == nil {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	defer s.context.Informers.Shutdown()
	s.context.Informers.Start(ctx.Done())
	for name, c := range s.controllers {
		if w, ok := c.(warmer); ok {
			group.Go(func() error {
				if err := w.Warm(ctx); err != nil {
					return fmt.Errorf("controller %s: %w", name, err)
				}
				return nil
			})
		}
	}
	for typ, ok := range s.context.Informers.WaitForCacheSync(ctx.Done()) {
		if !ok && ctx.Err() == nil {
			return fmt.Errorf("fill the cache of %s: stopped", typ)
		}
	}
	if ctx.Err() == nil {
		close(s.filled)
		warm()
	}
	group.Go(func() error { <-ctx.Done(); return nil })
	return group.Wait()
}

// created are the resources of which controllers make objects under names that they
// choose at the moment: one more for each look at a stale cache.
func (s *Server) created() map[runtimeschema.GroupVersionResource]cache.Store {
	f := s.context.Informers
	out := map[runtimeschema.GroupVersionResource]cache.Store{
		corev1.SchemeGroupVersion.WithResource("pods"):        f.Core().V1().Pods().Informer().GetStore(),
		appsv1.SchemeGroupVersion.WithResource("replicasets"): f.Apps().V1().ReplicaSets().Informer().GetStore(),
	}
	// An informer that no controller has asked for is not started, and never catches up.
	if s.controllers["endpointslice"] != nil || s.controllers["endpointslicemirroring"] != nil {
		out[discoveryv1.SchemeGroupVersion.WithResource("endpointslices")] = f.Discovery().V1().EndpointSlices().Informer().GetStore()
	}
	if s.controllers["job"] != nil { // which counts pods on top of what it counted before
		out[batchv1.SchemeGroupVersion.WithResource("jobs")] = f.Batch().V1().Jobs().Informer().GetStore()
	}
	return out
}

// catchUp waits until the caches have what another process of the plugin may have made a
// moment ago.
func (s *Server) catchUp(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for resource, store := range s.created() {
		group.Go(func() error { return s.env.CatchUp(ctx, resource, store, metav1.ListOptions{}) })
	}
	return group.Wait()
}

// Start runs the controllers until ctx ends, after their caches have filled.
func (s *Server) Start(ctx context.Context) error {
	if s.context == nil {
		return fmt.Errorf("start controllers: there is no API to work with")
	}
	s.env.Health.SetStarting("Waiting for the caches to fill")
	select {
	case <-s.filled:
	case <-ctx.Done():
		return nil
	}
	if err := s.catchUp(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("fill the caches: %w", err)
	}
	s.context.Broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.context.Client.CoreV1().Events(corev1.NamespaceAll)})
	s.env.Health.SetReady() // before all keys that have waited want the processor
	group, ctx := errgroup.WithContext(ctx)
	for name, c := range s.controllers {
		group.Go(func() error {
			if err := c.Run(ctx); err != nil {
				return fmt.Errorf("controller %s: %w", name, err)
			}
			return nil
		})
	}
	s.env.Log.Info("Controllers run", "controllers", strings.Join(s.running(), ","))
	return group.Wait()
}

// Close implements kit.Closer.
func (s *Server) Close() {
	if s.context != nil {
		s.context.Close()
	}
}

func (s *Server) running() []string {
	var out []string
	for _, name := range names() {
		if s.controllers[name] != nil {
			out = append(out, name)
		}
	}
	return out
}
