package apiserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"

	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/registry"
	"keelson.dev/keelson/core/review"
)

const (
	// drainTimeout is how long requests may go on after Start's context ended.
	drainTimeout = 5 * time.Second
	// watchDrain is how long watches get to be closed in order.
	watchDrain = time.Second
)

// Server is the API server of one Keelson server.
type Server struct {
	config   Config
	listener *gate
	generic  *genericapiserver.GenericAPIServer // of our own kinds

	aggregator *aggregator.APIAggregator            // before generic: it has the handler chain and the port
	crds       *crdserver.CustomResourceDefinitions // behind generic
	registrar  *registrar
	frontProxy *pki.Leaf
	serving    *servingCertificate

	identity *identity
	rbac     *auth.RBAC
	rights   *rights
	storage  *storageOptions
	loopback *rest.Config
	client   kubernetes.Interface
	factory  informers.SharedInformerFactory
	services *serviceResolver
	late     lateAdmission
	asked    askedAdmission
	mapper   *kindMapper
	fast     fastPath

	ready     chan struct{} // closed when all is there
	readyOnce sync.Once
	// end ends what was begun in New and lives as long as the server.
	end context.CancelFunc
}

// New listens and assembles the server. It starts nothing; a Server that is not
// started has to be closed.
func New(c Config) (*Server, error) {
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	ln := c.Listener
	if ln == nil {
		var err error
		if ln, err = listen(context.Background(), c.Listen); err != nil { // binding does not wait
			return nil, err
		}
	}
	var err error
	s := &Server{config: c, listener: newGate(ln), rbac: auth.NewRBAC(), storage: &storageOptions{db: c.DB, all: map[string]storage.Interface{}},
		services: &serviceResolver{}, ready: make(chan struct{})}
	if s.config.reviews, err = review.New(c.Log, c.ReviewDir); err != nil {
		ln.Close()
		return nil, fmt.Errorf("API server: %w", err)
	}
	s.asked.server = s
	var lifetime context.Context
	lifetime, s.end = context.WithCancel(context.Background())
	if err := s.assemble(lifetime); err != nil {
		s.end()
		s.config.reviews.Close()
		ln.Close()
		return nil, fmt.Errorf("API server: %w", err)
	}
	return s, nil
}

// Close gives the port back if Start is never called.
func (s *Server) Close() error {
	s.end()
	s.config.reviews.Close()
	return s.listener.Close()
}

// Address is where the server listens.
func (s *Server) Address() net.Addr { return s.listener.Addr() }

// Reviews is the plugins that the server asks. It takes them from New on.
func (s *Server) Reviews() *review.Set { return s.config.reviews }

// LoopbackConfig is for clients in this process: it may do everything. Copy it
// before changing it.
func (s *Server) LoopbackConfig() *rest.Config { return rest.CopyConfig(s.loopback) }

// Ready is closed when the server serves, knows the roles and has written the
// objects that every cluster has.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) assemble(lifetime context.Context) error {
	serving, err := keepServing(&s.config)
	if err != nil {
		return err
	}
	s.serving = serving
	gc := genericapiserver.NewConfig(registry.Codecs)
	gc.SecureServing = &genericapiserver.SecureServingInfo{Listener: joinListener{s.listener}, Cert: serving}
	if err := s.config.Options.Serving.apply(gc.SecureServing); err != nil {
		return err
	}
	if err := s.connectLoopback(gc.SecureServing); err != nil {
		return err
	}

	objects := &storedObjects{}
	if s.identity, err = newIdentity(lifetime, &s.config, objects); err != nil {
		return err
	}
	tokens := s.identity.tokens
	tokens.MarkUsed = s.markTokenUsed
	if s.rights, err = newRights(lifetime, &s.config, s.rbac, s.loopback); err != nil {
		return err
	}
	kubelets, err := newKubelets(s.config.PKI)
	if err != nil {
		return err
	}
	if s.storage.transformers, err = openEncryption(lifetime, &s.config); err != nil {
		return err
	}
	if err := s.configure(gc); err != nil {
		return err
	}
	if err := s.admit(gc, objects); err != nil {
		return err
	}
	groups, err := registry.APIGroups(registry.Config{
		RESTOptions: gc.RESTOptionsGetter, ServiceCIDRs: s.config.ServiceCIDRs,
		NodePortMin: s.config.NodePorts.Min, NodePortMax: s.config.NodePorts.Max,
		Kubelets: kubelets, Tokens: tokens, Plugins: s.config.Plugins,
		Authorizer: s.rights, Roles: s.rbac, Authenticator: s.identity.reviewed(), Domain: s.config.Domain, Resolve: s.mapper.resolve,
	})
	if err != nil {
		return fmt.Errorf("make registry: %w", err)
	}
	if err := objects.use(groups); err != nil {
		return err
	}
	s.rights.nodes.use(groups)
	if err := s.services.use(groups, s.loopback.Host); err != nil {
		return err
	}
	if err := s.late.watch(s, groups); err != nil {
		return err
	}
	return s.install(gc, groups, tokens)
}

// connectLoopback makes the configuration of clients in this process.
func (s *Server) connectLoopback(serving *genericapiserver.SecureServingInfo) error {
	c, err := serving.NewClientConfig(s.config.PKI.CAPEM())
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	c.TLSClientConfig.ServerName = "localhost" // the listener's address may not be in the certificate any more
	c.BearerToken = rand.Text()
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	c.UserAgent = "keelson-apiserver"
	c.DisableCompression = true          // it never leaves this machine
	c.WarningHandler = rest.NoWarnings{} // what is said to users of old kinds; the kernel writes Endpoints on purpose
	s.loopback = c
	if s.client, err = kubernetes.NewForConfig(c); err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	s.factory = informers.NewSharedInformerFactory(s.client, 0)
	s.mapper = newKindMapper(s.client.Discovery())
	return nil
}

func (s *Server) configure(gc *genericapiserver.Config) error {
	gc.LoopbackClientConfig = s.loopback
	gc.PublicAddress = s.config.AdvertiseAddress.AsSlice()
	gc.EffectiveVersion = newRelease()
	gc.Flagz = flagValues{s.config.Options}
	gc.RESTOptionsGetter = s.storage
	s.identity.apply(&s.config, gc)
	gc.Authorization.Authorizer = s.rights
	gc.RuleResolver = s.rights
	gc.LongRunningFunc = longRunning(genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward")))
	gc.BuildHandlerChainFunc = s.chain
	gc.FlowControl = s.flowControl()
	gc.ShutdownWatchTerminationGracePeriod = watchDrain
	// A request that comes while shutting down is told to try again.
	gc.ShutdownSendRetryAfter = true
	gc.StorageObjectCountTracker = nil // the store counts, see flowcontrol.go
	describe(gc)
	if err := s.config.Options.Requests.apply(gc); err != nil {
		return err
	}
	return s.config.Options.Audit.apply(gc)
}

func (s *Server) install(gc *genericapiserver.Config, groups []*genericapiserver.APIGroupInfo, tokens *auth.Tokens) error {
	s.addStoreChecks(gc)
	gc.AddReadyzChecks(s.readyCheck())
	if t := s.storage.transformers; t != nil {
		gc.AddHealthChecks(t)
	}
	gc.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	base := *gc
	crds, err := s.newCRDServer(base)
	if err != nil {
		return err
	}
	gc.EnableIndex, gc.BuildHandlerChainFunc = false, noChain // the aggregator has both
	generic, err := gc.Complete(nil).New("keelson-apiserver", &customResources{crds.GenericAPIServer, crds})
	if err != nil {
		return fmt.Errorf("generic server: %w", err)
	}
	s.generic, s.crds = generic, crds
	var named []*genericapiserver.APIGroupInfo
	for _, g := range groups {
		if g.PrioritizedVersions[0].Group != "" {
			named = append(named, g)
			continue
		}
		if err := generic.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, g); err != nil {
			return fmt.Errorf("install core API: %w", err)
		}
	}
	if err := generic.InstallAPIGroups(named...); err != nil {
		return fmt.Errorf("install API groups: %w", err)
	}
	if err := installDiscovery(generic, tokens); err != nil {
		return err
	}
	if err := s.enableFastPath(generic, gc, groups); err != nil {
		return err
	}
	if s.aggregator, err = s.newAggregator(base, generic); err != nil {
		return err
	}
	s.aggregator.GenericAPIServer.ShutdownTimeout = drainTimeout
	if s.registrar, err = s.newRegistrar(); err != nil {
		return err
	}
	serveOpenAPI(s)
	s.installBackup(generic)
	forgetModels(gc, groups)
	return nil
}

// Start serves until ctx ends, then drains and returns. An error ends it, too.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer s.rights.node.Wait()
	defer s.config.reviews.Close()
	defer s.end()
	waitRBAC, err := s.rbac.Watch(s.factory)
	if err != nil {
		return err
	}
	keep, err := newKeeper(s)
	if err != nil {
		return err
	}
	if err := s.registrar.write(ctx); err != nil {
		return fmt.Errorf("API server: register own API groups: %w", err)
	}
	if err := s.late.begin(ctx); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	defer s.late.wait()
	if err := s.config.reviews.Begin(s.asked.enable); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	prepared := s.aggregator.GenericAPIServer.PrepareRun() // the aggregator's own would make OpenAPI documents at once
	var g errgroup.Group
	run := func(f func(context.Context) error) {
		g.Go(func() error { defer cancel(); return f(ctx) })
	}
	run(prepared.RunWithContext)
	run(s.runEncryption)
	for _, f := range s.identity.follow {
		run(f.run)
	}
	if s.rights.file != nil {
		run(s.rights.file.run)
	}
	run(func(ctx context.Context) error {
		s.factory.Start(ctx.Done())
		defer s.factory.Shutdown()
		<-ctx.Done()
		return nil
	})
	run(s.registrar.keep)
	run(s.watchAvailability)
	run(func(ctx context.Context) error {
		// The first request must not come before the listener is served; it
		// would only wait, as the port is open since New.
		if err := s.bootstrap(ctx, waitRBAC); err != nil {
			if ctx.Err() != nil {
				return nil // stopped while starting
			}
			return fmt.Errorf("API server: %w", err)
		}
		s.readyOnce.Do(func() { close(s.ready) })
		return keep.run(ctx)
	})
	run(func(ctx context.Context) error {
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil
		}
		g.Go(func() error { return s.runBackups(ctx) })
		return s.rbac.Aggregate(ctx, s.client)
	})
	return g.Wait()
}

// bootstrap writes what every cluster has. It is repeated for a while, because
// a store that has just been opened may be busy.
func (s *Server) bootstrap(ctx context.Context, waitRBAC func(context.Context) error) error {
	var last error
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 8, Jitter: 0.1}
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		var g errgroup.Group
		g.Go(func() error { return s.ensureNamespaced(ctx) })
		g.Go(func() error { return auth.Bootstrap(ctx, s.client) })
		g.Go(func() error { return s.ensurePriorityClasses(ctx) })
		g.Go(func() error { return s.ensureServiceCIDR(ctx) })
		if last = g.Wait(); last != nil {
			return false, nil
		}
		g.Go(func() error { return s.ensureService(ctx) })
		last = g.Wait()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("write the objects every cluster has: %w", last)
	}
	if err := waitRBAC(ctx); err != nil {
		return err
	}
	return s.waitExtensions(ctx)
}
