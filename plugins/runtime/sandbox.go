package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"keelson.dev/keelson/plugins/kit/mounts"
	"keelson.dev/keelson/plugins/runtime/internal/netns"
	networkv1 "keelson.dev/keelson/proto/network/v1"
)

// cleanupTime bounds what is undone after a failure or a caller's cancellation.
const cleanupTime = 20 * time.Second

// shmSize is the size of a sandbox's /dev/shm, as other runtimes have it.
const shmSize = "65536k"

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func nsOptions(config *cri.PodSandboxConfig) *cri.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

// RunPodSandbox makes a sandbox: namespaces, files, network. It has no process
// but where containers share one PID namespace.
func (s *Server) RunPodSandbox(ctx context.Context, req *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	begin := time.Now()
	config := req.GetConfig()
	if err := s.checkSandbox(req); err != nil {
		return nil, err
	}
	data, err := encode(config)
	if err != nil {
		return nil, err
	}
	sb := &sandbox{config: config, rec: sandboxRecord{
		ID: newID(), Config: data, Handler: req.GetRuntimeHandler(), Phase: phaseCreating, CreatedAt: begin.UnixNano(), CgroupParent: s.cgroupParent(config),
	}}
	sb.life.Lock()
	defer sb.life.Unlock()
	if err := s.makeSandbox(ctx, sb); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if cerr := errors.Join(s.stopSandbox(clean, sb), s.dropSandbox(sb)); cerr != nil {
			s.log.Warn("A failed sandbox was not removed wholly", "sandbox", sb.rec.ID, "err", cerr)
		}
		return nil, rpcError(fmt.Errorf("run sandbox of pod %s/%s: %w", config.GetMetadata().GetNamespace(), config.GetMetadata().GetName(), err))
	}
	s.emit(cri.ContainerEventType_CONTAINER_CREATED_EVENT, sb.rec.ID, sb)
	s.emit(cri.ContainerEventType_CONTAINER_STARTED_EVENT, sb.rec.ID, sb)
	s.metrics.observe("run_sandbox", begin)
	return &cri.RunPodSandboxResponse{PodSandboxId: sb.rec.ID}, nil
}

func (s *Server) checkSandbox(req *cri.RunPodSandboxRequest) error {
	config := req.GetConfig()
	meta := config.GetMetadata()
	if meta.GetName() == "" || meta.GetNamespace() == "" || meta.GetUid() == "" {
		return status.Error(codes.InvalidArgument, "the sandbox's metadata needs name, namespace and uid")
	}
	switch req.GetRuntimeHandler() {
	case "", "runc", "crun", "keelson":
	default:
		return status.Errorf(codes.InvalidArgument, "runtime handler %q is unknown; there is only the default one", req.GetRuntimeHandler())
	}
	if nsOptions(config).GetUsernsOptions().GetMode() == cri.NamespaceMode_POD && nsOptions(config).GetUsernsOptions() != nil {
		return status.Error(codes.Unimplemented, "user namespaces are not supported")
	}
	if parent := config.GetLinux().GetCgroupParent(); parent != "" {
		if !strings.HasPrefix(parent, "/") || filepath.Clean(parent) != parent || parent == "/" {
			return status.Errorf(codes.InvalidArgument, "cgroup_parent %q has to be a clean absolute path below the root, as /keelson/pods/pod<UID>", parent)
		}
	}
	return nil
}

func (s *Server) cgroupParent(config *cri.PodSandboxConfig) string {
	if parent := config.GetLinux().GetCgroupParent(); parent != "" {
		return parent
	}
	uid := strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '_'
		}
		return r
	}, config.GetMetadata().GetUid())
	return podsCgroup + "/pod" + uid
}

func (s *Server) makeSandbox(ctx context.Context, sb *sandbox) error {
	id := sb.rec.ID
	if err := s.updateSandbox(sb, func(*sandboxRecord) {}); err != nil {
		return err
	}
	s.mu.Lock()
	s.sandboxes[id] = sb
	s.mu.Unlock()
	opts := nsOptions(sb.config)
	ownNetwork, ownIPC := opts.GetNetwork() != cri.NamespaceMode_NODE, opts.GetIpc() != cri.NamespaceMode_NODE
	ns := netns.Options{Dir: s.netnsDir(id), Network: ownNetwork, IPC: ownIPC, Sysctls: sb.config.GetLinux().GetSysctls()}
	if ownNetwork {
		ns.Hostname = hostname(sb.config)
	}
	if err := netns.Create(ns); err != nil {
		return err
	}
	if err := s.sandboxFiles(sb.config, id, ownIPC); err != nil {
		return err
	}
	if ownNetwork {
		if err := s.joinNetwork(ctx, sb); err != nil {
			return err
		}
	}
	if opts.GetPid() == cri.NamespaceMode_POD {
		if err := s.startPause(ctx, sb); err != nil {
			return err
		}
	}
	return s.updateSandbox(sb, func(r *sandboxRecord) { r.Phase = phaseReady })
}

// hostname of a sandbox; the machine's name for pods on its network.
func hostname(config *cri.PodSandboxConfig) string {
	if nsOptions(config).GetNetwork() == cri.NamespaceMode_NODE {
		name, _ := os.Hostname()
		return name
	}
	if name := config.GetHostname(); name != "" {
		return name
	}
	return config.GetMetadata().GetName()
}

func (s *Server) sandboxFiles(config *cri.PodSandboxConfig, id string, ownIPC bool) error {
	dir := s.sandboxDir(id)
	shm := filepath.Join(dir, "shm")
	if err := os.MkdirAll(shm, 0o755); err != nil {
		return fmt.Errorf("make the sandbox's files: %w", err)
	}
	if ownIPC {
		if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size="+shmSize); err != nil {
			return fmt.Errorf("mount the sandbox's shared memory: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hostname"), []byte(hostname(config)+"\n"), 0o644); err != nil {
		return fmt.Errorf("make the sandbox's files: %w", err)
	}
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644); err != nil {
		return fmt.Errorf("make the sandbox's files: %w", err)
	}
	return nil
}

// resolvConf writes what the kubelet decided; with nothing said, the machine's file.
func resolvConf(dns *cri.DNSConfig) ([]byte, error) {
	if dns == nil {
		data, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return data, err
	}
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return []byte(b.String()), nil
}

func (s *Server) joinNetwork(ctx context.Context, sb *sandbox) error {
	if s.network == nil {
		return status.Error(codes.Unavailable, "this node has no network plugin")
	}
	meta := sb.config.GetMetadata()
	req := &networkv1.SetupRequest{
		SandboxId: sb.rec.ID, Netns: filepath.Join(s.netnsDir(sb.rec.ID), "net"),
		PodNamespace: meta.GetNamespace(), PodName: meta.GetName(), PodUid: meta.GetUid(), Annotations: sb.config.GetAnnotations(),
	}
	for _, port := range sb.config.GetPortMappings() {
		if port.GetHostPort() > 0 {
			req.PortMappings = append(req.PortMappings, &networkv1.PortMapping{
				Protocol: port.GetProtocol().String(), ContainerPort: port.GetContainerPort(), HostPort: port.GetHostPort(), HostIp: port.GetHostIp()})
		}
	}
	if err := s.updateSandbox(sb, func(r *sandboxRecord) { r.Networked = true }); err != nil {
		return err
	}
	answer, err := s.network.Setup(ctx, req)
	if err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	if len(answer.GetAddresses()) == 0 {
		return errors.New("set up the network: the network plugin gave no address")
	}
	return s.updateSandbox(sb, func(r *sandboxRecord) { r.Addresses = bareAddresses(answer.GetAddresses()) })
}

// bareAddresses drops prefix lengths.
func bareAddresses(list []string) []string {
	out := make([]string, len(list))
	for i, address := range list {
		out[i], _, _ = strings.Cut(address, "/")
	}
	return out
}

func (s *Server) sandbox(id string) (*sandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return byIdentity(s.sandboxes, "sandbox", id)
}

// StopPodSandbox ends all containers of the sandbox and leaves the network.
func (s *Server) StopPodSandbox(ctx context.Context, req *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return &cri.StopPodSandboxResponse{}, nil //nolint:nilerr // gone is stopped
	}
	begin := time.Now()
	sb.life.Lock()
	defer sb.life.Unlock()
	was := sb.snapshot().Phase
	if err := s.stopSandbox(ctx, sb); err != nil {
		return nil, rpcError(fmt.Errorf("stop sandbox %s: %w", sb.rec.ID, err))
	}
	if was == phaseReady {
		s.emit(cri.ContainerEventType_CONTAINER_STOPPED_EVENT, sb.rec.ID, sb)
	}
	s.metrics.observe("stop_sandbox", begin)
	return &cri.StopPodSandboxResponse{}, nil
}

// stopSandbox may be repeated. The caller holds life.
func (s *Server) stopSandbox(ctx context.Context, sb *sandbox) error {
	rec := sb.snapshot()
	var errs []error
	for _, c := range s.containersOf(rec.ID) {
		errs = append(errs, s.kill(ctx, c))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if rec.Pause != "" {
		if c, err := s.container(rec.Pause); err == nil {
			if err := s.removeContainer(ctx, c); err != nil {
				return err
			}
		}
	}
	if rec.Networked && s.network != nil {
		if _, err := s.network.Teardown(ctx, &networkv1.TeardownRequest{SandboxId: rec.ID, Netns: filepath.Join(s.netnsDir(rec.ID), "net")}); err != nil {
			return fmt.Errorf("leave the network: %w", err)
		}
	}
	if err := netns.Remove(s.netnsDir(rec.ID)); err != nil {
		return err
	}
	if err := mounts.Detach(filepath.Join(s.sandboxDir(rec.ID), "shm")); err != nil {
		return err
	}
	return s.updateSandbox(sb, func(r *sandboxRecord) { r.Phase, r.Networked, r.Pause = phaseStopped, false, "" })
}

// RemovePodSandbox removes the sandbox with all its containers.
func (s *Server) RemovePodSandbox(ctx context.Context, req *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	sb, err := s.sandbox(req.GetPodSandboxId())
	if err != nil {
		return &cri.RemovePodSandboxResponse{}, nil //nolint:nilerr // gone is removed
	}
	sb.life.Lock()
	defer sb.life.Unlock()
	if err := s.stopSandbox(ctx, sb); err != nil {
		return nil, rpcError(fmt.Errorf("remove sandbox %s: %w", sb.rec.ID, err))
	}
	for _, c := range s.containersOf(sb.rec.ID) {
		if err := s.removeContainer(ctx, c); err != nil {
			return nil, rpcError(fmt.Errorf("remove sandbox %s: %w", sb.rec.ID, err))
		}
	}
	if err := s.dropSandbox(sb); err != nil {
		return nil, rpcError(fmt.Errorf("remove sandbox %s: %w", sb.rec.ID, err))
	}
	s.emit(cri.ContainerEventType_CONTAINER_DELETED_EVENT, sb.rec.ID, sb)
	return &cri.RemovePodSandboxResponse{}, nil
}

// dropSandbox forgets a stopped sandbox.
func (s *Server) dropSandbox(sb *sandbox) error {
	id := sb.rec.ID
	if err := os.RemoveAll(s.sandboxDir(id)); err != nil {
		return err
	}
	s.host.RemoveEmpty(sb.rec.CgroupParent) // the kubelet's, if it still has something there
	sb.mu.Lock()
	sb.removed = true
	err := os.Remove(s.sandboxFile(id))
	sb.mu.Unlock()
	s.mu.Lock()
	delete(s.sandboxes, id)
	s.mu.Unlock()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
