package proxy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nft"
)

const (
	// checkEvery is how often the loop looks whether someone removed our chains.
	checkEvery = 30 * time.Second
	// retryFirst and retryMost bound the back-off after the kernel refused rules.
	retryFirst, retryMost = 200 * time.Millisecond, 30 * time.Second
	// byService indexes slices by the service that they belong to.
	byService = "service"
)

// Server is the proxy plugin.
type Server struct {
	env     *kit.Env
	cfg     Config
	client  kubernetes.Interface
	metrics *metrics
	tables  []*table // used by the sync loop alone
	checks  *healthChecks

	factory  informers.SharedInformerFactory
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer

	mu    sync.Mutex // guards dirty
	dirty map[string]struct{}
	wake  chan struct{} // holds one
}

var _ kit.WarmStandby = (*Server)(nil)

func newServer(env *kit.Env, cfg Config, client kubernetes.Interface) (*Server, error) {
	s := &Server{env: env, cfg: cfg, client: client, metrics: newMetrics(env.Metrics), dirty: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	for _, fam := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, cidr := range env.Cluster.ServiceCIDRs {
			if fam.Is(cidr.Addr()) {
				s.tables = append(s.tables, newTable(fam, 1<<*cfg.MasqueradeBit, env.Cluster.PodCIDRs, env.Cluster.ServiceCIDRs))
				break
			}
		}
	}
	s.checks = newHealthChecks(env)
	s.factory = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(slim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
		}))
	s.services = s.factory.Core().V1().Services().Informer()
	s.slices = s.factory.Discovery().V1().EndpointSlices().Informer()
	if err := s.slices.AddIndexers(cache.Indexers{byService: sliceService}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	return s, s.watch()
}

// Warm keeps services and endpoints, and touches no rule.
func (s *Server) Warm(ctx context.Context, warm func()) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	if cache.WaitForCacheSync(ctx.Done(), s.services.HasSynced, s.slices.HasSynced) {
		warm()
	}
	<-ctx.Done()
	return nil
}

// Start works until ctx ends. It takes over the rules that it finds, by one transaction,
// and leaves its own.
func (s *Server) Start(ctx context.Context) error {
	s.env.Health.SetStarting("waiting for services and endpoints")
	defer s.checks.close()
	if !cache.WaitForCacheSync(ctx.Done(), s.services.HasSynced, s.slices.HasSynced) {
		return nil
	}
	s.loop(ctx)
	return nil
}

// slim drops what the proxy does not read.
func slim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		o.ManagedFields = nil
	case *discoveryv1.EndpointSlice:
		o.ManagedFields, o.Annotations = nil, nil
		for i := range o.Endpoints {
			o.Endpoints[i].TargetRef, o.Endpoints[i].DeprecatedTopology, o.Endpoints[i].Zone = nil, nil, nil
		}
	}
	return obj, nil
}

func sliceService(obj any) ([]string, error) {
	if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
		if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
			return []string{slice.Namespace + "/" + name}, nil
		}
	}
	return nil, nil
}

// watch marks services dirty as they and their slices change.
func (s *Server) watch() error {
	on := func(key func(obj any) []string) cache.ResourceEventHandlerFuncs {
		mark := func(obj any) {
			if tomb, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tomb.Obj
			}
			s.mark(key(obj))
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: mark, DeleteFunc: mark, UpdateFunc: func(old, now any) { mark(old); mark(now) }}
	}
	_, err := s.services.AddEventHandler(on(func(obj any) []string {
		key, err := cache.MetaNamespaceKeyFunc(obj)
		if err != nil {
			return nil
		}
		return []string{key}
	}))
	if err != nil {
		return fmt.Errorf("watch services: %w", err)
	}
	_, err = s.slices.AddEventHandler(on(func(obj any) []string { keys, _ := sliceService(obj); return keys }))
	if err != nil {
		return fmt.Errorf("watch endpoint slices: %w", err)
	}
	return nil
}

func (s *Server) mark(keys []string) {
	if len(keys) == 0 {
		return
	}
	s.mu.Lock()
	for _, k := range keys {
		s.dirty[k] = struct{}{}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Server) takeDirty() map[string]struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirty
	s.dirty = map[string]struct{}{}
	return d
}

// loop brings the kernel up to date until ctx ends: all at first and after a failure,
// then what is dirty.
func (s *Server) loop(ctx context.Context) {
	full, back := true, retryFirst
	check := time.NewTicker(checkEvery)
	defer check.Stop()
	for ctx.Err() == nil {
		dirty := s.takeDirty()
		err := s.sync(dirty, full)
		if err != nil {
			s.metrics.failures.Inc()
			s.env.Log.Error("Service rules are not up to date", "err", err, "retryIn", back)
			s.env.Health.SetDegraded(err.Error())
			full = true
			pause(ctx, back/2+rand.N(back))
			back = min(2*back, retryMost)
			continue
		}
		if full {
			s.env.Log.Info("Service rules are up to date", "services", s.programmed())
		}
		full, back = false, retryFirst
		s.env.Health.SetReady()
		select {
		case <-ctx.Done():
		case <-s.wake:
			pause(ctx, time.Duration(*s.cfg.CoalesceMilliseconds)*time.Millisecond)
		case <-check.C:
			full = !s.intact()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (s *Server) intact() bool {
	for _, t := range s.tables {
		if ok, err := t.intact(); err == nil && !ok {
			s.env.Log.Warn("Someone changed the service rules; they are written anew", "table", tableName)
			return false
		}
	}
	return true
}

func (s *Server) programmed() int {
	keys := map[string]bool{}
	for _, t := range s.tables {
		for k := range maps.Keys(t.contents) {
			keys[k] = true
		}
	}
	return len(keys)
}

// sync programs the dirty services, or all of them.
func (s *Server) sync(dirty map[string]struct{}, full bool) error {
	if full {
		dirty = map[string]struct{}{}
		for _, k := range s.services.GetIndexer().ListKeys() {
			dirty[k] = struct{}{}
		}
	}
	if len(dirty) == 0 && !full {
		return nil
	}
	start, kind := time.Now(), "change"
	if full {
		kind = "full"
	}
	objects := s.read(dirty)
	for _, t := range s.tables {
		if err := s.syncTable(t, objects, full); err != nil {
			return err
		}
	}
	s.syncChecks(objects, full)
	s.metrics.seconds.WithLabelValues(kind).Observe(time.Since(start).Seconds())
	s.metrics.services.Set(float64(s.programmed()))
	return nil
}

// object is a service with its slices; the service is nil if it is gone.
type object struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
}

func (s *Server) read(keys map[string]struct{}) map[string]object {
	objects := make(map[string]object, len(keys))
	for key := range keys {
		var o object
		if got, ok, err := s.services.GetIndexer().GetByKey(key); err == nil && ok {
			o.service, _ = got.(*corev1.Service)
		}
		if got, err := s.slices.GetIndexer().ByIndex(byService, key); err == nil {
			for _, g := range got {
				if slice, ok := g.(*discoveryv1.EndpointSlice); ok {
					o.slices = append(o.slices, slice)
				}
			}
		}
		objects[key] = o
	}
	return objects
}

func (s *Server) syncTable(t *table, objects map[string]object, full bool) error {
	changes := make(map[string]*content, len(objects))
	for key, o := range objects {
		now := newContent(servicePorts(o.service, o.slices, t.fam, s.env.Node.Name), s.env.Node.Addresses)
		if now != nil || t.contents[key] != nil {
			changes[key] = now
		}
	}
	old := newStale(s.nodeAddresses())
	for key, now := range changes {
		old.compare(t.contents[key], now)
	}
	if full {
		for key, was := range t.contents {
			if _, still := changes[key]; !still {
				old.compare(was, nil)
			}
		}
		for key, c := range changes {
			if c == nil {
				delete(changes, key)
			}
		}
		if err := t.replace(changes); err != nil {
			return err
		}
	} else if _, err := t.update(changes); err != nil {
		return err
	}
	if old.empty() {
		return nil
	}
	family := netlink.InetFamily(unix.AF_INET)
	if t.fam.NFProto == unix.NFPROTO_IPV6 {
		family = unix.AF_INET6
	}
	n, err := old.forget(family)
	if err != nil { // the rules are right; senders that never pause may go wrong
		s.env.Log.Warn("UDP clients may reach endpoints that have gone", "err", err)
	}
	s.metrics.flows.Add(float64(n))
	return nil
}

// nodeAddresses are all addresses of the node now: node ports are open on each.
func (s *Server) nodeAddresses() []netip.Addr {
	addrs := append([]netip.Addr(nil), s.env.Node.Addresses...)
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return addrs
	}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}
