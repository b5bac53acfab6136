package controllers

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
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

	"keelson.dev/keelson/plugins/controllers/internal/accounts"
	"keelson.dev/keelson/plugins/controllers/internal/control"
	"keelson.dev/keelson/plugins/controllers/internal/deployment"
	"keelson.dev/keelson/plugins/controllers/internal/disruption"
	"keelson.dev/keelson/plugins/controllers/internal/endpoints"
	"keelson.dev/keelson/plugins/controllers/internal/garbage"
	"keelson.dev/keelson/plugins/controllers/internal/namespaces"
	"keelson.dev/keelson/plugins/controllers/internal/nodes"
	"keelson.dev/keelson/plugins/controllers/internal/podgc"
	"keelson.dev/keelson/plugins/controllers/internal/protection"
	"keelson.dev/keelson/plugins/controllers/internal/replicaset"
	"keelson.dev/keelson/plugins/controllers/internal/resourcequota"
	"keelson.dev/keelson/plugins/kit"
)

// controller is a part of the server: made with its handlers registered, then
// run until its context ends.
type controller interface {
	Run(ctx context.Context) error
}

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
		Client: client, Metadata: meta, Discovery: client.Discovery(), Log: env.Log, Metrics: metrics,
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
	for _, name := range names {
		if !s.config.enabled(name) {
			continue
		}
		c, err := s.make(name)
		if err != nil {
			return fmt.Errorf("make controller %s: %w", name, err)
		}
		s.controllers[name] = c
	}
	return nil
}

func (s *Server) make(name string) (controller, error) {
	c, cfg := s.context, &s.config
	switch name {
	case "namespace":
		return namespaces.New(c)
	case "serviceaccount":
		return accounts.NewAccounts(c)
	case "rootca":
		return accounts.NewRootCA(c)
	case "nodeipam":
		return nodes.NewIPAM(c, cfg.NodeCIDRMaskSizeIPv4, cfg.NodeCIDRMaskSizeIPv6)
	case "nodelifecycle":
		return nodes.NewLifecycle(c, nodes.Timing{
			Period: cfg.NodeMonitorPeriod.Duration, Grace: cfg.NodeMonitorGracePeriod.Duration,
			StartupGrace: cfg.NodeStartupGracePeriod.Duration, EvictionInterval: cfg.NodeEvictionInterval.Duration,
		})
	case "tainteviction":
		return nodes.NewEviction(c)
	case "deployment":
		return deployment.New(c)
	case "replicaset":
		return replicaset.New(c)
	case "replicationcontroller":
		return replicaset.NewReplication(c)
	case "endpointslice":
		return endpoints.NewSlices(c)
	case "endpoints":
		return endpoints.NewLegacy(c)
	case "endpointslicemirroring":
		return endpoints.NewMirror(c)
	case "garbagecollector":
		return garbage.New(c), nil
	case "podgc":
		return podgc.New(c, *cfg.TerminatedPodThreshold), nil
	case "resourcequota":
		return resourcequota.New(c)
	case "pvcprotection":
		return protection.NewClaims(c)
	case "pvprotection":
		return protection.NewVolumes(c)
	case "vacprotection":
		return protection.NewClasses(c)
	case "disruption":
		return disruption.New(c)
	}
	return nil, fmt.Errorf("no controller is called %q", name)
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
	return map[runtimeschema.GroupVersionResource]cache.Store{
		corev1.SchemeGroupVersion.WithResource("pods"):                f.Core().V1().Pods().Informer().GetStore(),
		appsv1.SchemeGroupVersion.WithResource("replicasets"):         f.Apps().V1().ReplicaSets().Informer().GetStore(),
		discoveryv1.SchemeGroupVersion.WithResource("endpointslices"): f.Discovery().V1().EndpointSlices().Informer().GetStore(),
	}
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
	for _, name := range names {
		if s.controllers[name] != nil {
			out = append(out, name)
		}
	}
	return out
}
