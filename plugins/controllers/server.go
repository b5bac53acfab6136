package controllers

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
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
}

var _ kit.Runner = (*Server)(nil)

// New makes the controllers that the configuration asks for.
func New(env *kit.Env) (*Server, error) {
	s := &Server{env: env}
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

// Start runs the controllers until ctx ends, after their caches have filled.
func (s *Server) Start(ctx context.Context) error {
	if s.context == nil {
		return fmt.Errorf("start controllers: there is no API to work with")
	}
	defer s.context.Broadcaster.Shutdown()
	s.context.Broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.context.Client.CoreV1().Events(corev1.NamespaceAll)})
	group, ctx := errgroup.WithContext(ctx)
	defer s.context.Informers.Shutdown()
	s.context.Informers.Start(ctx.Done())
	s.env.Health.SetStarting("Waiting for the caches to fill")
	for typ, ok := range s.context.Informers.WaitForCacheSync(ctx.Done()) {
		if !ok && ctx.Err() == nil {
			return fmt.Errorf("fill the cache of %s: stopped", typ)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	for name, c := range s.controllers {
		group.Go(func() error {
			if err := c.Run(ctx); err != nil {
				return fmt.Errorf("controller %s: %w", name, err)
			}
			return nil
		})
	}
	s.env.Health.SetReady()
	s.env.Log.Info("Controllers run", "controllers", strings.Join(s.running(), ","))
	return group.Wait()
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
