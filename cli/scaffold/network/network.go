package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/plugins/kit"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// askEvery is how often the Node object is read until it has a range.
const askEvery = time.Second

// network is one activation of the plugin.
type network struct {
	networkv1.UnimplementedNetworkServiceServer
	env    *kit.Env
	config Config
	client kubernetes.Interface // nil: there is no API (in tests)

	mu        sync.Mutex // guards all below, and the node's links
	cidr      netip.Prefix
	bridge    int                 // index of the link; 0: not ready
	reason    string              // why not
	sandboxes map[string]sandbox  // by their identity
	others    map[netip.Addr]bool // addresses of pods that run already
}

// newNetwork checks the configuration and allocates. It starts nothing, and takes nothing
// that only one process may have.
func newNetwork(env *kit.Env) (*network, error) {
	n := &network{env: env, reason: "the node has no pod range yet"}
	if err := env.LoadConfig(&n.config); err != nil {
		return nil, err
	}
	if env.RESTConfig == nil {
		return n, nil
	}
	var err error
	n.client, err = env.Clientset()
	return n, err
}

// Start serves until ctx ends. Pods keep their network, and the next process finds in the
// data folder which addresses they have.
func (n *network) Start(ctx context.Context) error {
	var err error
	if n.sandboxes, err = loadSandboxes(n.dir()); err != nil {
		return err
	}
	n.env.Health.SetStarting(n.reason)
	found := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with ctx, and is waited for
		err := n.findRange(ctx)
		if err != nil {
			cancel()
		}
		found <- err
	}()
	err = n.env.ServeGRPC(ctx, func(s *grpc.Server) { networkv1.RegisterNetworkServiceServer(s, n) })
	cancel()
	if e := <-found; err == nil {
		err = e
	}
	return err
}

// findRange waits for the node's range, and sets the bridge up.
func (n *network) findRange(ctx context.Context) error {
	for {
		text, err := n.podCIDR(ctx)
		if text != "" && err == nil {
			var others map[netip.Addr]bool
			if others, err = n.running(ctx); err == nil {
				return n.setUp(text, others)
			}
		}
		if err != nil {
			n.env.Log.Warn("Cannot read the node", "node", n.env.Node.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(askEvery):
		}
	}
}

// podCIDR is the range, empty if there is none yet.
func (n *network) podCIDR(ctx context.Context) (string, error) {
	if n.config.PodCIDR != "" || n.client == nil {
		return n.config.PodCIDR, nil
	}
	node, err := n.client.CoreV1().Nodes().Get(ctx, n.env.Node.Name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, text := range node.Spec.PodCIDRs {
		if _, err := parseRange(text); err == nil {
			return text, nil
		}
	}
	return "", nil
}

// running are the addresses of the node's pods, those of the network before this one too.
func (n *network) running(ctx context.Context) (map[netip.Addr]bool, error) {
	addresses := map[netip.Addr]bool{}
	if n.client == nil {
		return addresses, nil
	}
	pods, err := n.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.env.Node.Name})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		for _, ip := range pods.Items[i].Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); err == nil {
				addresses[a] = true
			}
		}
	}
	return addresses, nil
}

func (n *network) setUp(text string, others map[netip.Addr]bool) error {
	cidr, err := parseRange(text)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	index, err := ensureBridge(n.config.Bridge, cidr.Addr().Next())
	if err != nil {
		return fmt.Errorf("set up bridge %s: %w", n.config.Bridge, err)
	}
	n.cidr, n.bridge, n.reason, n.others = cidr, index, "", others
	n.env.Health.SetReady()
	n.env.Log.Info("Pod network is up", "bridge", n.config.Bridge, "range", cidr.String(), "sandboxes", len(n.sandboxes))
	return nil
}

// Status says whether Setup can work.
func (n *network) Status(context.Context, *networkv1.StatusRequest) (*networkv1.StatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridge == 0 {
		return &networkv1.StatusResponse{Message: n.reason}, nil
	}
	return &networkv1.StatusResponse{Ready: true, PodCidrs: []string{n.cidr.String()}}, nil
}

// Setup joins a sandbox to the bridge.
func (n *network) Setup(_ context.Context, r *networkv1.SetupRequest) (*networkv1.SetupResponse, error) {
	if err := check(r); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridge == 0 {
		return nil, status.Error(codes.Unavailable, n.reason)
	}
	s, known := n.sandboxes[r.GetSandboxId()]
	if !known {
		address, ok := n.free()
		if !ok {
			return nil, status.Errorf(codes.ResourceExhausted, "no address of %s is free", n.cidr)
		}
		s.Address = address
	}
	s.ID, s.Netns = r.GetSandboxId(), r.GetNetns()
	if err := s.save(n.dir()); err != nil { // before there is anything to undo
		return nil, status.Errorf(codes.Internal, "note sandbox %s: %v", s.ID, err)
	}
	n.sandboxes[s.ID] = s
	if err := join(s, n.bridge, n.gateway()); err != nil {
		code := codes.Internal
		if isNoNetns(err) {
			code = codes.InvalidArgument
		}
		if !known {
			_ = n.leave(s) // Teardown would find it as well
		}
		return nil, status.Errorf(code, "join sandbox %s: %v", s.ID, err)
	}
	return &networkv1.SetupResponse{Addresses: []string{s.Address.String()}, Interface: podLink, Gateways: []string{n.gateway().String()}, Mtu: mtu}, nil
}

// Teardown undoes Setup.
func (n *network) Teardown(_ context.Context, r *networkv1.TeardownRequest) (*networkv1.TeardownResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, known := n.sandboxes[r.GetSandboxId()]; known {
		if err := n.leave(s); err != nil {
			return nil, status.Errorf(codes.Internal, "tear down sandbox %s: %v", s.ID, err)
		}
	}
	return &networkv1.TeardownResponse{}, nil
}

// leave takes a sandbox's link away, then its record; the caller holds mu.
func (n *network) leave(s sandbox) error {
	if err := unlink(s); err != nil {
		return err
	}
	if err := netlink.RouteDel(s.route(n.bridge, n.gateway())); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete the route to %s: %w", s.Address, err)
	}
	if err := s.remove(n.dir()); err != nil {
		return err
	}
	delete(n.sandboxes, s.ID)
	return nil
}

// dir is of this plugin alone: the data folder is that of its name, and may have files of
// another program that had the name before.
func (n *network) dir() string { return filepath.Join(n.env.DataDir, "flat-network") }

// gateway is the node's address on the bridge.
func (n *network) gateway() netip.Addr { return n.cidr.Addr().Next() }

// free is an address that no sandbox has; the caller holds mu.
func (n *network) free() (netip.Addr, bool) {
	used := map[netip.Addr]bool{}
	for _, s := range n.sandboxes {
		used[s.Address] = true
	}
	for a := n.gateway().Next(); n.cidr.Contains(a.Next()); a = a.Next() { // the last one is the broadcast address
		if !used[a] && !n.others[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// check refuses what makes no sense, and what this plugin does not do.
func check(r *networkv1.SetupRequest) error {
	switch {
	case r.GetSandboxId() == "":
		return status.Error(codes.InvalidArgument, "sandbox_id: Required value")
	case r.GetNetns() == "":
		return status.Error(codes.InvalidArgument, "netns: Required value")
	case len(r.GetPortMappings()) > 0:
		return status.Error(codes.InvalidArgument, "port_mappings: this network has no host ports")
	}
	return nil
}

var (
	_ kit.Runner                     = (*network)(nil)
	_ networkv1.NetworkServiceServer = (*network)(nil)
)
