package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"

	"keelson.dev/keelson/plugins/kit"
	"keelson.dev/keelson/plugins/runtime/internal/cgroup"
	"keelson.dev/keelson/plugins/runtime/internal/images"
	"keelson.dev/keelson/plugins/runtime/internal/oci"
	networkv1 "keelson.dev/keelson/proto/network/v1"
	runtimev1 "keelson.dev/keelson/proto/runtime/v1"
)

const (
	conmonCgroup = cgroup.Root + "/conmon"
	podsCgroup   = cgroup.Root + "/pods"

	// stopGrace is what containers get when the whole node goes down.
	stopGrace = 10 * time.Second
)

// Server answers CRI.
type Server struct {
	cri.UnimplementedRuntimeServiceServer
	config  Config
	log     *slog.Logger
	version string
	dataDir string
	runDir  string

	images   *images.Store
	host     *cgroup.Host
	limits   oci.Limits
	apparmor bool
	spawner  *cgroup.Spawner
	network  networkv1.NetworkServiceClient // nil: only pods on the host's network
	events   *hub
	health   *kit.Health // nil without a plugin around it
	metrics  *metrics
	stream   streaming.Server

	watchers sync.WaitGroup // of live containers
	stopped  chan struct{}  // closed when the server ends

	mu         sync.RWMutex // guards all below
	sandboxes  map[string]*sandbox
	containers map[string]*container
	runtimeBin string
	conmonBin  string
}

var (
	_ cri.RuntimeServiceServer           = (*Server)(nil)
	_ cri.ImageServiceServer             = (*imageService)(nil)
	_ runtimev1.ImageImportServiceServer = (*importService)(nil)
)

// newServer allocates; it opens the directories but starts nothing.
func newServer(config Config, version, dataDir, runDir string, log *slog.Logger) (*Server, error) {
	s := &Server{
		config: config, log: log, version: version, dataDir: dataDir, runDir: runDir,
		events: newHub(), stopped: make(chan struct{}), metrics: newMetrics(),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
	}
	for _, dir := range []string{filepath.Join(dataDir, "containers"), filepath.Join(dataDir, "sandboxes"), s.exitDir(), s.ociRoot(),
		filepath.Join(runDir, "containers"), filepath.Join(runDir, "sandboxes"), filepath.Join(runDir, "netns"), filepath.Join(runDir, "exec")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open the runtime's directories: %w", err)
		}
	}
	var err error
	if s.host, err = cgroup.Detect(); err != nil {
		return nil, err
	}
	if s.limits, err = oci.ProbeLimits(); err != nil {
		return nil, err
	}
	if data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && len(data) > 0 && data[0] == 'Y' {
		s.apparmor = true
	}
	return s, nil
}

// findPrograms looks for conmon and the OCI runtime, and says what is missing.
func (s *Server) findPrograms() error {
	names := []string{"crun", "runc"}
	if s.config.Runtime != "" {
		names = []string{s.config.Runtime}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []error
	if s.runtimeBin == "" {
		for _, name := range names {
			if path, err := lookPath(name); err == nil {
				s.runtimeBin = path
				break
			}
		}
		if s.runtimeBin == "" {
			missing = append(missing, fmt.Errorf("no OCI runtime (%v) in PATH: apt-get install crun", names))
		}
	}
	if s.conmonBin == "" {
		if path, err := lookPath(s.config.Conmon); err == nil {
			s.conmonBin = path
		} else {
			missing = append(missing, fmt.Errorf("no %s in PATH: apt-get install conmon", s.config.Conmon))
		}
	}
	return errors.Join(missing...)
}

// checkPrograms is findPrograms that tells the kernel, too. The kubelet asks for
// Status time and again, so programs that are installed later are found.
func (s *Server) checkPrograms() error {
	err := s.findPrograms()
	switch {
	case s.health == nil:
	case err != nil:
		s.health.SetDegraded(err.Error())
	default:
		s.health.SetReady()
	}
	return err
}

// lookPath looks in the system's directories too: a service may have a short PATH.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

func (s *Server) programs() (runtimeBin, conmonBin string, err error) {
	if err := s.findPrograms(); err != nil {
		return "", "", err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.runtimeBin, s.conmonBin, nil
}

// open reads all state, and reconciles it with what runs.
func (s *Server) open(ctx context.Context) error {
	store, err := images.Open(filepath.Join(s.dataDir, "images"), s.log)
	if err != nil {
		return err
	}
	s.images = store
	if err := s.takeHugetlb(); err != nil {
		s.log.Warn("The hugetlb controller stays where it is, and crun may refuse to run", "err", err)
	}
	if err := s.recover(ctx); err != nil {
		return err
	}
	return s.images.Collect(nil)
}

// run does the background work until ctx ends.
func (s *Server) run(ctx context.Context, ready func() error) error {
	spawner, err := s.host.NewSpawner(conmonCgroup)
	if err != nil {
		return err
	}
	s.spawner = spawner
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.watchers.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	context.AfterFunc(ctx, func() { close(s.stopped) })
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx)) // those under way are finished after ctx's end
	defer cancel()
	moved := make(chan error, 1)
	wg.Go(func() { spawner.Run(calls, s.host, conmonCgroup, func(err error) { moved <- err }) })
	if err := <-moved; err != nil {
		return err
	}
	exits, err := newExitWatcher(s.exitDir())
	if err != nil {
		return err
	}
	wg.Go(func() { s.watchExits(ctx, exits) })
	if err := s.open(ctx); err != nil {
		return err
	}
	return ready()
}

// serveStreams serves exec, attach and port forwarding on 127.0.0.1. The URLs have
// tokens that are good for one use and one minute, and in this process: it serves them,
// and the streams, until it ends, active or not.
func (s *Server) serveStreams(life context.Context, stream func() (end func())) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for streams: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = listener.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	if s.stream, err = streaming.NewServer(config, &streams{s}); err != nil {
		return errors.Join(err, listener.Close())
	}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a request is a session
		defer stream()()
		s.stream.ServeHTTP(w, r)
	})
	server := &http.Server{Handler: counted, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return life }}
	context.AfterFunc(life, func() { _ = server.Close() })
	go func() { // ended by the process' end
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("The streaming server ended", "err", err)
		}
	}()
	return nil
}

// Register puts all services on a gRPC server.
func (s *Server) Register(server *grpc.Server) {
	cri.RegisterRuntimeServiceServer(server, s)
	cri.RegisterImageServiceServer(server, &imageService{Server: s})
	runtimev1.RegisterImageImportServiceServer(server, &importService{Server: s})
}

// runner is the plugin's life.
type runner struct {
	env    *kit.Env
	server *Server
}

func newRunner(env *kit.Env, config Config) (*runner, error) {
	server, err := newServer(config, env.Version, env.DataDir, env.RunDir, env.Log)
	if err != nil {
		return nil, err
	}
	if env.Metrics != nil {
		if err := server.metrics.register(env.Metrics, server); err != nil {
			return nil, err
		}
	}
	return &runner{env: env, server: server}, nil
}

var _ kit.WarmStandby = (*runner)(nil)

// Warm looks for the programs. Records, images and cgroups belong to the active process.
func (r *runner) Warm(ctx context.Context, warm func()) error {
	_ = r.server.findPrograms() // Start says what is missing
	warm()
	<-ctx.Done()
	return nil
}

// Start serves until ctx ends.
func (r *runner) Start(ctx context.Context) error {
	s := r.server
	if path := r.env.Endpoints["network"]; path != "" {
		conn, err := kit.DialSocket(path, kit.CallAgain(nil))
		if err != nil {
			return err
		}
		defer conn.Close()
		s.network = networkv1.NewNetworkServiceClient(conn)
	}
	if err := s.serveStreams(r.env.Life(), r.env.Stream); err != nil {
		return err
	}
	return s.run(ctx, func() error {
		s.sayLimits()
		s.health = r.env.Health
		_ = s.checkPrograms() // told
		return r.env.ServeGRPC(ctx, s.Register,
			kit.Interrupt(cri.RuntimeService_StopContainer_FullMethodName, cri.ImageService_PullImage_FullMethodName),
			kit.LiveOn(cri.RuntimeService_ExecSync_FullMethodName))
	})
}

// sayLimits tells once what this machine does not allow.
func (s *Server) sayLimits() {
	if !s.limits.FreeOOM {
		s.log.Info("This machine lacks CAP_SYS_RESOURCE, so OOM scores and limits of open files are kept within those of Keelson itself",
			"oomScoreAdj", s.limits.OOMScoreAdj, "openFiles", s.limits.OpenFiles)
	}
}
