package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/kit"
)

const (
	// lookEvery is how often link and Service are looked after.
	lookEvery = 15 * time.Second
	// tcpIdle closes connections on which nothing is asked.
	tcpIdle = 8 * time.Second
	// fillTime is how long queries wait in the sockets after a start for the names of the
	// cluster, before cluster names get SERVFAIL and others are answered.
	fillTime = 2 * time.Second
	// answerTime is what queries under way have at the end of an activation before the
	// next process begins; those that wait for a server of elsewhere are answered later.
	answerTime = 20 * time.Millisecond

	serviceNamespace = "kube-system"
	serviceName      = "kube-dns"
	nodeLocal        = "keelson.dev/node-local"
)

// Server is the dns plugin.
type Server struct {
	env     *kit.Env
	cfg     Config
	client  kubernetes.Interface
	metrics *metrics
	addrs   []netip.Addr // that we listen on
	port    int          // 53, but in tests
	factory informers.SharedInformerFactory
	zone    *zone
	synced  cache.InformerSynced
	handler *handler
}

var _ kit.WarmStandby = (*Server)(nil)

func newServer(env *kit.Env, cfg Config, client kubernetes.Interface) (*Server, error) {
	addrs := []netip.Addr{nodeAddress}
	if env.Cluster.DNSAddress.IsValid() {
		addrs = append(addrs, env.Cluster.DNSAddress)
	}
	s := &Server{env: env, cfg: cfg, client: client, metrics: newMetrics(env.Metrics), addrs: addrs, port: dnsPort}
	s.factory = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(slim))
	var err error
	if s.zone, s.synced, err = newZone(s.factory); err != nil {
		return nil, err
	}
	return s, nil
}

// Warm keeps the names that are served.
func (s *Server) Warm(ctx context.Context, warm func()) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	if cache.WaitForCacheSync(ctx.Done(), s.synced) {
		warm()
	}
	<-ctx.Done()
	return nil
}

// Start serves until ctx ends. Link and addresses stay, and the kernel keeps the sockets:
// queries that come meanwhile wait in them.
func (s *Server) Start(ctx context.Context) error {
	s.env.Health.SetStarting("waiting for services and endpoints")
	if err := ensureLink(s.addrs); err != nil {
		return err
	}
	s.handler = s.newHandler(s.zone)
	fill, filled := context.WithTimeout(ctx, fillTime)
	cache.WaitForCacheSync(fill.Done(), s.synced)
	filled()
	g, ctx := errgroup.WithContext(ctx)
	for _, addr := range s.addrs {
		if err := errors.Join(s.serveUDP(ctx, g, addr), s.serveTCP(ctx, g, addr)); err != nil {
			g.Go(func() error { return err })
		}
	}
	g.Go(func() error {
		if cache.WaitForCacheSync(ctx.Done(), s.synced) {
			s.env.Health.SetReady()
			s.env.Log.Info("Cluster names are served", "domain", s.handler.namer.domain, "addresses", s.addrs)
		}
		return nil
	})
	g.Go(func() error { s.lookAfter(ctx); return nil })
	return g.Wait()
}

func (s *Server) newHandler(z *zone) *handler {
	domain := s.env.Cluster.Domain
	if domain == "" {
		domain = "cluster.local"
	}
	ranges := append(append([]netip.Prefix(nil), s.env.Cluster.ServiceCIDRs...), s.env.Cluster.PodCIDRs...)
	return &handler{
		namer:   &namer{zone: z, domain: dns.CanonicalName(domain), ttl: *s.cfg.TTL},
		forward: newForwarder(s.cfg, s.env.Log, s.addrs), metrics: s.metrics, server: s.addrs[len(s.addrs)-1:], ranges: ranges, env: s.env,
	}
}

// newZone sets up the informers and their indexes.
func newZone(factory informers.SharedInformerFactory) (*zone, cache.InformerSynced, error) {
	services := factory.Core().V1().Services().Informer()
	endpointSlices := factory.Discovery().V1().EndpointSlices().Informer()
	namespaces := factory.Core().V1().Namespaces().Informer()
	err := errors.Join(
		services.AddIndexers(cache.Indexers{byAddress: indexClusterIPs}),
		endpointSlices.AddIndexers(cache.Indexers{byService: indexSlices, byAddress: indexEndpoints}))
	if err != nil {
		return nil, nil, fmt.Errorf("index services: %w", err)
	}
	synced := func() bool { return services.HasSynced() && endpointSlices.HasSynced() && namespaces.HasSynced() }
	return &zone{services: services.GetIndexer(), slices: endpointSlices.GetIndexer(), namespaces: namespaces.GetStore(), synced: synced}, synced, nil
}

func (s *Server) newDNSServer(network string, addr netip.Addr) *dns.Server {
	return &dns.Server{Addr: net.JoinHostPort(addr.String(), strconv.Itoa(s.port)), Net: network, Handler: s.handler, UDPSize: dns.DefaultMsgSize,
		IdleTimeout: func() time.Duration { return tcpIdle }, MsgAcceptFunc: accept}
}

// serveUDP answers datagrams until ctx ends. One that was read is answered, later too.
func (s *Server) serveUDP(ctx context.Context, g *errgroup.Group, addr netip.Addr) error {
	srv := s.newDNSServer("udp", addr)
	var err error
	if srv.PacketConn, err = s.env.PacketConn(ctx, "udp", srv.Addr); err != nil {
		return err
	}
	s.run(ctx, g, srv, func() {
		go func() { _ = srv.ShutdownContext(s.env.Life()) }() // ends with the last answer, or the process
	})
	return nil
}

// serveTCP answers connections until ctx ends. Those that are open then go on in this
// process until they are idle.
func (s *Server) serveTCP(ctx context.Context, g *errgroup.Group, addr netip.Addr) error {
	srv := s.newDNSServer("tcp", addr)
	var err error
	if srv.Listener, err = s.env.Listener(ctx, "tcp", srv.Addr); err != nil {
		return err
	}
	s.run(ctx, g, srv, func() {
		_ = srv.Listener.Close()
		context.AfterFunc(s.env.Life(), func() { _ = srv.Shutdown() })
	})
	return nil
}

// run serves until ctx ends, and then calls stop, which takes on nothing new.
func (s *Server) run(ctx context.Context, g *errgroup.Group, srv *dns.Server, stop func()) {
	started, ended := make(chan struct{}), make(chan error, 1)
	srv.NotifyStartedFunc = func() { close(started) }
	go func() { ended <- srv.ActivateAndServe() }() // ends with the last connection
	g.Go(func() error {
		select {
		case <-started:
		case err := <-ended:
			return fmt.Errorf("serve %s %s: %w", srv.Net, srv.Addr, err)
		}
		select {
		case err := <-ended:
			return fmt.Errorf("serve %s %s: %w", srv.Net, srv.Addr, err)
		case <-ctx.Done():
		}
		stop()
		select {
		case <-ended:
		case <-time.After(answerTime):
		}
		return nil
	})
}

// accept lets the handler answer what the library would drop or refuse itself: it knows
// better what to say.
func accept(h dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	if h.Bits&response != 0 {
		return dns.MsgIgnore
	}
	if h.Qdcount != 1 || h.Ancount > 1 || h.Nscount > 1 || h.Arcount > 4 {
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// lookAfter keeps the link and the Service until ctx ends.
func (s *Server) lookAfter(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	exists, wait := false, time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := ensureLink(s.addrs); err != nil {
			s.env.Log.Error("DNS addresses are not set", "err", err)
			s.env.Health.SetDegraded(err.Error())
		}
		if !exists {
			if err := s.ensureService(ctx); err != nil {
				s.env.Log.Debug("Service will be created later", "service", serviceNamespace+"/"+serviceName, "err", err)
				wait = min(2*wait, lookEvery)
			} else {
				exists, wait = true, lookEvery
			}
		}
		timer.Reset(wait)
	}
}

// ensureService creates the Service by which others find the address. It has no
// endpoints: each node answers itself.
func (s *Server) ensureService(ctx context.Context) error {
	address := s.env.Cluster.DNSAddress
	if !address.IsValid() {
		return nil
	}
	services := s.client.CoreV1().Services(serviceNamespace)
	got, err := services.Get(ctx, serviceName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		got, err = services.Create(ctx, dnsService(address), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		if err == nil {
			s.env.Log.Info("Created the service of cluster DNS", "service", serviceNamespace+"/"+serviceName, "address", address)
		}
	}
	if err != nil {
		return fmt.Errorf("ensure service %s/%s: %w", serviceNamespace, serviceName, err)
	}
	if got.Spec.ClusterIP != address.String() {
		s.env.Log.Warn("Service of cluster DNS has another address than pods are told", "service", serviceNamespace+"/"+serviceName, "got", got.Spec.ClusterIP, "want", address)
		return nil
	}
	if got.Labels[nodeLocal] != "true" && len(got.Spec.Selector) == 0 {
		if got.Labels == nil {
			got.Labels = map[string]string{}
		}
		got.Labels[nodeLocal] = "true"
		if _, err := services.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("label service %s/%s: %w", serviceNamespace, serviceName, err)
		}
	}
	return nil
}

func dnsService(address netip.Addr) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: serviceNamespace, Name: serviceName,
			Labels: map[string]string{nodeLocal: "true", "k8s-app": serviceName, "app.kubernetes.io/managed-by": "keelson", "kubernetes.io/name": "KeelsonDNS"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: address.String(), ClusterIPs: []string{address.String()},
			Ports: []corev1.ServicePort{
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort},
				{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort},
			},
		},
	}
}
