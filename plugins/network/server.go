package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/kit/nft"
	"keelson.dev/keelson/proto/api/v1alpha1"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

const (
	// reconcileEvery is how often links, routes and rules are looked over.
	reconcileEvery = time.Minute
	// reclaimEvery is how often sandboxes that vanished are looked for: one stat each.
	reclaimEvery = 10 * time.Second
)

// defaultMTU is for nodes without a default route.
const defaultMTU = 1500

// Server is the network plugin.
type Server struct {
	networkv1.UnimplementedNetworkServiceServer

	env     *kit.Env
	cfg     Config
	client  kubernetes.Interface
	metrics *metrics
	host    *netlink.Handle
	factory informers.SharedInformerFactory
	nodes   cache.SharedIndexInformer

	locks keyedMutex // by sandbox ID: one call at a time for each

	mu        sync.Mutex // guards all below; no I/O but the files of sandboxes under it
	cidrs     []netip.Prefix
	mtu       int
	bridge    netlink.Link // nil: not ready
	reason    string       // why not ready
	pools     []*pool      // in the order of cidrs
	sandboxes map[string]*sandbox
	rules     []*rules

	applyMu sync.Mutex // held while the node's links, routes and rules change
}

var _ networkv1.NetworkServiceServer = (*Server)(nil)

var _ kit.WarmStandby = (*Server)(nil)

func newServer(env *kit.Env, cfg Config, client kubernetes.Interface) *Server {
	s := &Server{
		env: env, cfg: cfg, client: client, metrics: newMetrics(env.Metrics), sandboxes: map[string]*sandbox{},
		reason: fmt.Sprintf("node %s has no pod range yet (spec.podCIDRs)", env.Node.Name),
	}
	s.factory = informers.NewSharedInformerFactoryWithOptions(s.client, 0, informers.WithTransform(slim), informers.WithTweakListOptions(realNodes))
	s.nodes = s.factory.Core().V1().Nodes().Informer()
	return s
}

// realNodes leaves out simulated nodes, to which no route leads. The factory is for
// nodes alone.
func realNodes(o *metav1.ListOptions) { o.LabelSelector = "!" + v1alpha1.SimLabel }

// Warm keeps the nodes. Records, links and rules belong to the active process.
func (s *Server) Warm(ctx context.Context, warm func()) error {
	s.factory.Start(ctx.Done())
	defer s.factory.Shutdown()
	if cache.WaitForCacheSync(ctx.Done(), s.nodes.HasSynced) {
		warm()
	}
	<-ctx.Done()
	return nil
}

// Start serves until ctx ends. Pods keep their network.
func (s *Server) Start(ctx context.Context) error {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer host.Close()
	if s.sandboxes, err = loadSandboxes(s.env.DataDir, s.env.Log); err != nil {
		return err
	}
	s.host = host
	s.env.Health.SetStarting(s.reason)
	var former nodeState
	if _, err := readJSON(filepath.Join(s.env.DataDir, nodeFile), &former); err != nil {
		s.env.Log.Warn("Ignored the stored state of the node", "err", err)
	}
	if len(former.PodCIDRs) > 0 { // pods can start before the API server answers
		if err := s.applyRange(former.PodCIDRs); err != nil {
			s.env.Log.Warn("Setting up the node's network will be tried again", "err", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.env.ServeGRPC(ctx, func(srv *grpc.Server) { networkv1.RegisterNetworkServiceServer(srv, s) })
	})
	g.Go(func() error { return s.followNodes(ctx) })
	g.Go(func() error { return s.reconcileLoop(ctx) })
	return g.Wait()
}

// applyNodes brings the node's network to what the Node objects say. A node that lost its
// range keeps it: its pods still have theirs.
func (s *Server) applyNodes(own []netip.Prefix, others []remote) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if len(own) > 0 {
		if err := s.applyRange(own); err != nil {
			s.env.Log.Error("Node network is not set up", "err", err)
			s.env.Health.SetDegraded(err.Error())
			return
		}
	}
	s.mu.Lock()
	bridge, cidrs := s.bridge, s.cidrs
	s.mu.Unlock()
	if bridge == nil {
		return
	}
	if err := s.applyRoutes(bridge, cidrs, others); err != nil {
		s.env.Log.Warn("Some nodes are out of reach", "err", err)
		s.env.Health.SetDegraded(err.Error())
		return
	}
	s.env.Health.SetReady()
}

// applyRange sets the node up for its ranges: forwarding, the bridge, rules. Repeated, it
// repairs the links.
func (s *Server) applyRange(cidrs []netip.Prefix) error {
	v6 := slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	up, err := uplink(s.host)
	if err != nil {
		return err
	}
	mtu, name := defaultMTU, ""
	if up != nil {
		mtu, name = up.Attrs().MTU, up.Attrs().Name
	}
	if s.cfg.Encapsulation == EncapsulationAlways {
		mtu -= vxlanOverhead
	}
	if s.cfg.MTU != 0 {
		mtu = s.cfg.MTU
	}
	if err := forward(s.env.DataDir, v6, name); err != nil {
		return err
	}
	var gateways []netip.Prefix
	for _, c := range cidrs {
		gateways = append(gateways, netip.PrefixFrom(c.Addr().Next(), c.Bits()))
	}
	bridge, err := ensureBridge(s.host, gateways, mtu)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := !slices.Equal(s.cidrs, cidrs)
	if changed || !s.tablesIntact() {
		if err := s.replaceRules(cidrs); err != nil {
			return err
		}
	}
	if changed {
		if err := writeJSON(filepath.Join(s.env.DataDir, nodeFile), nodeState{PodCIDRs: cidrs}); err != nil {
			return err
		}
		s.pools = nil
		for _, c := range cidrs {
			p := newPool(c)
			for _, sb := range s.sandboxes {
				for _, a := range sb.Addresses {
					p.keep(a, sb.ID)
				}
			}
			s.pools = append(s.pools, p)
		}
		s.env.Log.Info("Pod network is up", "podCidrs", cidrs, "mtu", mtu, "sandboxes", len(s.sandboxes))
		s.warnOfDrops()
	}
	s.cidrs, s.mtu, s.bridge, s.reason = cidrs, mtu, bridge, ""
	s.metrics.sandboxes.Set(float64(len(s.sandboxes)))
	s.env.Health.SetReady()
	return nil
}

// replaceRules writes the tables anew; the caller holds mu.
func (s *Server) replaceRules(cidrs []netip.Prefix) error {
	cluster := s.env.Cluster.PodCIDRs
	if len(cluster) == 0 {
		cluster = cidrs
	}
	s.rules = nil
	for _, fam := range []nft.Family{nft.IPv4, nft.IPv6} {
		if !slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return fam.Is(p.Addr()) }) {
			continue
		}
		r := newRules(fam)
		if err := r.replace(cluster, *s.cfg.Masquerade, s.sandboxes); err != nil {
			return err
		}
		s.rules = append(s.rules, r)
	}
	return nil
}

// tablesIntact says whether our tables are still there; "nft flush ruleset" takes them.
func (s *Server) tablesIntact() bool {
	conn, err := nft.NewConn()
	if err != nil {
		return true
	}
	for _, r := range s.rules {
		chains, err := conn.ListChainsOfTableFamily(r.fam.Table)
		if err != nil {
			return true
		}
		n := 0
		for _, c := range chains {
			if c.Table.Name == tableName {
				n++
			}
		}
		if n < 4 {
			return false
		}
	}
	return true
}

func (s *Server) linkMTU() int {
	if up, err := uplink(s.host); err == nil && up != nil {
		return up.Attrs().MTU
	}
	return defaultMTU
}

// reconcileLoop frees what vanished, until ctx ends.
func (s *Server) reconcileLoop(ctx context.Context) error {
	ticker := time.NewTicker(reclaimEvery)
	defer ticker.Stop()
	for {
		s.reconcile()
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// keyedMutex is a lock for each key.
type keyedMutex struct {
	mu   sync.Mutex // guards held
	held map[string]*heldKey
}

type heldKey struct {
	mu   sync.Mutex
	refs int
}

// lock waits for the key and returns the function that gives it back.
func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*heldKey{}
	}
	h := k.held[key]
	if h == nil {
		h = &heldKey{}
		k.held[key] = h
	}
	h.refs++
	k.mu.Unlock()
	h.mu.Lock()
	return func() {
		h.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if h.refs--; h.refs == 0 {
			delete(k.held, key)
		}
	}
}

var errNotReady = errors.New("network is not ready")
