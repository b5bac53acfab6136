package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"keelson.dev/keelson/plugins/kit/nft"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// Setup joins a sandbox to the pod network.
func (s *Server) Setup(_ context.Context, req *networkv1.SetupRequest) (resp *networkv1.SetupResponse, err error) {
	defer s.observe("setup", time.Now(), &err)
	ports, err := checkSetup(req)
	if err != nil {
		return nil, err
	}
	defer s.locks.lock(req.GetSandboxId())()
	sb, old, mtu, err := s.reserve(req, ports)
	if err != nil {
		return nil, grpcError(err)
	}
	s.mu.Lock()
	bridge := s.bridge
	s.mu.Unlock()
	if err = joinSandbox(s.host, bridge, sb, mtu); err != nil && isStale(err) {
		// Someone removed the bridge.
		if bridge, err = s.repairBridge(); err == nil {
			err = joinSandbox(s.host, bridge, sb, mtu)
		}
	}
	if err != nil {
		if old == nil { // nothing of it is in use
			err = errors.Join(err, s.leave(sb.ID))
		}
		return nil, grpcError(fmt.Errorf("set up sandbox of pod %s/%s: %w", sb.Namespace, sb.Name, err))
	}
	if err := s.changePorts(old, sb); err != nil {
		return nil, grpcError(fmt.Errorf("set up sandbox of pod %s/%s: %w", sb.Namespace, sb.Name, err))
	}
	resp = &networkv1.SetupResponse{Interface: podLink, Mtu: int32(mtu)}
	for i, a := range sb.Addresses {
		resp.Addresses = append(resp.Addresses, a.String())
		resp.Gateways = append(resp.Gateways, sb.Gateways[i].String())
	}
	return resp, nil
}

// Teardown undoes Setup.
func (s *Server) Teardown(_ context.Context, req *networkv1.TeardownRequest) (resp *networkv1.TeardownResponse, err error) {
	defer s.observe("teardown", time.Now(), &err)
	if req.GetSandboxId() == "" {
		return nil, status.Error(codes.InvalidArgument, "sandbox_id: is required")
	}
	defer s.locks.lock(req.GetSandboxId())()
	if err := s.leave(req.GetSandboxId()); err != nil {
		return nil, grpcError(fmt.Errorf("tear down sandbox %s: %w", req.GetSandboxId(), err))
	}
	return &networkv1.TeardownResponse{}, nil
}

// Status says whether Setup can work.
func (s *Server) Status(context.Context, *networkv1.StatusRequest) (*networkv1.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &networkv1.StatusResponse{Ready: s.bridge != nil, Message: s.reason}
	for _, c := range s.cidrs {
		resp.PodCidrs = append(resp.PodCidrs, c.String())
	}
	return resp, nil
}

// reserve finds the sandbox, or takes addresses for it and writes them to disk. The old
// one is what was there before, nil if nothing was.
func (s *Server) reserve(req *networkv1.SetupRequest, ports []portMapping) (sb, old *sandbox, mtu int, err error) {
	id := req.GetSandboxId()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bridge == nil {
		return nil, nil, 0, fmt.Errorf("%w: %s", errNotReady, s.reason)
	}
	sb = &sandbox{ID: id, Netns: req.GetNetns(), Namespace: req.GetPodNamespace(), Name: req.GetPodName(), UID: req.GetPodUid(), Ports: ports}
	if err := s.checkPorts(sb); err != nil {
		return nil, nil, 0, err
	}
	if old = s.sandboxes[id]; old != nil {
		sb.Addresses, sb.Gateways = old.Addresses, old.Gateways
		if old.Netns == sb.Netns && slices.Equal(old.Ports, sb.Ports) {
			return sb, old, s.mtu, nil
		}
	} else {
		for _, p := range s.pools {
			addr, err := p.take(id)
			if err != nil {
				s.freeAddresses(sb)
				return nil, nil, 0, err
			}
			sb.Addresses, sb.Gateways = append(sb.Addresses, addr), append(sb.Gateways, p.gateway)
		}
	}
	if err := writeJSON(sandboxFile(s.env.DataDir, id), sb); err != nil {
		if old == nil {
			s.freeAddresses(sb)
		}
		return nil, nil, 0, err
	}
	s.sandboxes[id] = sb
	s.metrics.sandboxes.Set(float64(len(s.sandboxes)))
	return sb, old, s.mtu, nil
}

// errPortTaken means that another pod has the host port.
var errPortTaken = errors.New("host port is taken")

// checkPorts refuses host ports that another sandbox has; the caller holds mu.
func (s *Server) checkPorts(sb *sandbox) error {
	if len(sb.Ports) == 0 {
		return nil
	}
	for _, other := range s.sandboxes {
		if other.ID == sb.ID {
			continue
		}
		for _, p := range sb.Ports {
			for _, q := range other.Ports {
				sameIP := p.HostIP == q.HostIP || !p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP.IsUnspecified() || q.HostIP.IsUnspecified()
				if p.Protocol == q.Protocol && p.HostPort == q.HostPort && sameIP {
					return fmt.Errorf("%w: %s port %d belongs to pod %s/%s", errPortTaken, p.Protocol, p.HostPort, other.Namespace, other.Name)
				}
			}
		}
	}
	return nil
}

func (s *Server) freeAddresses(sb *sandbox) {
	for _, p := range s.pools {
		for _, a := range sb.Addresses {
			p.free(a, sb.ID)
		}
	}
}

// changePorts writes the difference of the host ports to the kernel.
func (s *Server) changePorts(old, now *sandbox) error {
	if (old == nil || len(old.Ports) == 0) && (now == nil || len(now.Ports) == 0) {
		return nil
	}
	s.mu.Lock()
	rules := s.rules
	s.mu.Unlock()
	for _, r := range rules {
		if err := r.change(old, now); err != nil {
			return err
		}
	}
	for _, sb := range []*sandbox{old, now} {
		if sb != nil {
			s.dropFlows(sb)
		}
	}
	return nil
}

// dropFlows makes the kernel forget UDP flows through the sandbox's host ports: senders
// that never pause would be sent by the old rules for ever.
func (s *Server) dropFlows(sb *sandbox) {
	ports := map[uint16]bool{}
	for _, p := range sb.Ports {
		if p.Protocol == "UDP" {
			ports[p.HostPort] = true
		}
	}
	if len(ports) == 0 {
		return
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := s.host.ConntrackDeleteFilters(netlink.ConntrackTable, family, flowFilter(ports)); err != nil {
			s.env.Log.Warn("UDP flows of a host port may be stale", "pod", sb.Namespace+"/"+sb.Name, "err", err)
		}
	}
}

// flowFilter matches UDP flows to any of the ports.
type flowFilter map[uint16]bool

// MatchConntrackFlow says whether the flow goes to one of the ports.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f[flow.Forward.DstPort]
}

// leave removes all of a sandbox; the caller holds its lock.
func (s *Server) leave(id string) error {
	if err := deleteLink(s.host, linkName(id)); err != nil {
		return err
	}
	s.mu.Lock()
	sb := s.sandboxes[id]
	s.mu.Unlock()
	if sb == nil {
		return nil
	}
	if err := s.changePorts(sb, nil); err != nil {
		return err
	}
	return s.forget(sb)
}

// forget frees the addresses: first on disk, so that a crash in between loses nothing
// that is in use.
func (s *Server) forget(sb *sandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(sandboxFile(s.env.DataDir, sb.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	delete(s.sandboxes, sb.ID)
	s.freeAddresses(sb)
	s.metrics.sandboxes.Set(float64(len(s.sandboxes)))
	return nil
}

// repairBridge makes the bridge again after someone removed it.
func (s *Server) repairBridge() (netlink.Link, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.mu.Lock()
	cidrs := s.cidrs
	s.mu.Unlock()
	if err := s.applyRange(cidrs); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bridge, nil
}

func isStale(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) && !errors.Is(err, errNetns)
}

// reconcile frees sandboxes whose namespace and link are both gone, and removes links of
// ours that belong to no sandbox.
func (s *Server) reconcile() {
	s.mu.Lock()
	known := map[string]*sandbox{}
	maps.Copy(known, s.sandboxes)
	s.mu.Unlock()
	for id, sb := range known {
		if _, err := os.Stat(sb.Netns); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if _, err := s.host.LinkByName(linkName(id)); !notFound(err) {
			continue
		}
		unlock := s.locks.lock(id)
		s.mu.Lock()
		same := s.sandboxes[id] == sb // no Setup in between
		s.mu.Unlock()
		if same {
			if err := s.leave(id); err != nil {
				s.env.Log.Warn("Cleaning up a sandbox will be tried again", "pod", sb.Namespace+"/"+sb.Name, "err", err)
			} else {
				s.metrics.free.WithLabelValues().Inc()
				s.env.Log.Info("Sandbox vanished; its addresses are free", "pod", sb.Namespace+"/"+sb.Name, "addresses", sb.Addresses)
			}
		}
		unlock()
	}
}

// checkSetup returns the request's host ports.
func checkSetup(req *networkv1.SetupRequest) ([]portMapping, error) {
	if req.GetSandboxId() == "" {
		return nil, status.Error(codes.InvalidArgument, "sandbox_id: is required")
	}
	if req.GetNetns() == "" {
		return nil, status.Error(codes.InvalidArgument, "netns: is required")
	}
	var ports []portMapping
	for i, m := range req.GetPortMappings() {
		if m.GetHostPort() == 0 {
			continue // a container port that is not published
		}
		if m.GetHostPort() < 0 || m.GetHostPort() > 65535 || m.GetContainerPort() < 1 || m.GetContainerPort() > 65535 {
			return nil, status.Errorf(codes.InvalidArgument, "port_mappings[%d]: ports must be between 1 and 65535, got host %d, container %d", i, m.GetHostPort(), m.GetContainerPort())
		}
		if nft.Proto(m.GetProtocol()) == 0 {
			return nil, status.Errorf(codes.InvalidArgument, "port_mappings[%d].protocol: must be TCP, UDP or SCTP, got %q", i, m.GetProtocol())
		}
		p := portMapping{Protocol: m.GetProtocol(), HostPort: uint16(m.GetHostPort()), ContainerPort: uint16(m.GetContainerPort())}
		if m.GetHostIp() != "" {
			ip, err := netip.ParseAddr(m.GetHostIp())
			if err != nil {
				return nil, status.Errorf(codes.InvalidArgument, "port_mappings[%d].host_ip: %q is not an IP address", i, m.GetHostIp())
			}
			p.HostIP = ip.Unmap()
		}
		ports = append(ports, p)
	}
	return ports, nil
}

// grpcError gives an error the code that the contract names.
func grpcError(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, errNotReady):
		code = codes.Unavailable
	case errors.Is(err, errExhausted):
		code = codes.ResourceExhausted
	case errors.Is(err, errNetns):
		code = codes.InvalidArgument
	case errors.Is(err, errPortTaken):
		code = codes.AlreadyExists
	}
	return status.Error(code, err.Error())
}

func (s *Server) observe(operation string, start time.Time, err *error) {
	s.metrics.seconds.WithLabelValues(operation, status.Code(*err).String()).Observe(time.Since(start).Seconds())
}
