package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/client-go/kubernetes"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/auth"
	"keelson.dev/keelson/core/backup"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/version"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// server is a running kernel with an API.
type server struct {
	cfg   Config
	pki   *pki.Authority
	api   *apiserver.Server
	host  *pluginhost.Host
	sync  *pluginSync
	admin *pki.Leaf
	nodes *nodeKernels
	// hosts is closed when host, sync.api and nodes are there, which comes after the API.
	hosts chan struct{}
	// replacer has what outlives the server, such as where systemd waits for READY=1.
	*replacer
}

// notifySocketEnv names systemd's socket, sd_notify(3).
const notifySocketEnv = "NOTIFY_SOCKET"

// RunServer runs a server until ctx ends, or until a part of it fails.
func RunServer(ctx context.Context, cfg Config) error {
	tuneGC()
	defer logLibraries(cfg.Log)()
	if err := makeDirs(cfg.DataDir, cfg.RunDir); err != nil {
		return err
	}
	r, err := newReplacer(cfg.Log, cfg.DataDir, cfg.RunDir, cfg.Upgrade)
	if err != nil {
		return err
	}
	cfg.Command = r.command(cfg.Command)
	return r.run(ctx, func(ctx context.Context) error { return runServer(ctx, cfg, r) })
}

// runServer runs a server until ctx ends.
func runServer(ctx context.Context, cfg Config, r *replacer) error {
	begin := time.Now()
	if aside, err := backup.Finish(cfg.DataDir); err != nil {
		return err
	} else if aside != "" {
		cfg.Log.Warn("Completed a restore that had been interrupted", "before", aside)
	}
	authority, err := pki.Open(filepath.Join(cfg.DataDir, "pki"), pki.WithClock(cfg.time.clock()))
	if err != nil {
		return err
	}
	db, err := apiserver.OpenDatastore(ctx, cfg.API.Datastore, filepath.Join(cfg.DataDir, "store"), cfg.Log)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, pki: authority, sync: newPluginSync(cfg.Log, cfg.Node.Name, true, cfg.Builtins), replacer: r, hosts: make(chan struct{})}
	port, err := r.listen()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	s.api, err = apiserver.New(apiserver.Config{
		Listen: cfg.Listen.String(), Listener: port, AdvertiseAddress: cfg.Node.Addresses[0], PKI: authority, DB: db, Log: cfg.Log,
		ServiceCIDRs: cfg.ServiceCIDRs, NodePorts: apiserver.PortRange{Min: cfg.NodePorts.Min, Max: cfg.NodePorts.Max},
		Domain: cfg.Domain, Plugins: operator{s}, Options: cfg.API,
		EncryptionDir: filepath.Join(cfg.DataDir, EncryptionDir), ReviewDir: filepath.Join(cfg.DataDir, "review"),
		BackupFiles: func() ([]*backup.File, error) { return backup.Files(cfg.DataDir) },
	})
	if err == nil {
		err = r.keep(s.api)
	}
	if err == nil {
		err = s.run(ctx, begin)
	}
	return errors.Join(err, db.Close())
}

// run has the API up for as long as anything runs that needs it.
func (s *server) run(ctx context.Context, begin time.Time) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAPI()
	apiDone := make(chan error, 1)
	go func() { // ends by stopAPI, or when the API fails
		err := s.api.Start(apiCtx)
		if err == nil && apiCtx.Err() == nil {
			err = errors.New("the API server ended by itself")
		}
		apiDone <- err
		stop(err)
	}()
	select {
	case <-s.api.Ready():
	case <-ctx.Done():
		stopAPI()
		return <-apiDone
	}
	err := s.runPlugins(ctx, begin)
	if s.hand(s.host, err) {
		s.api.Replace()
	}
	stopAPI()
	return errors.Join(err, <-apiDone)
}

// runPlugins starts what needs the API, and returns when all of it has ended.
func (s *server) runPlugins(ctx context.Context, begin time.Time) error {
	clientset, err := kubernetes.NewForConfig(s.api.LoopbackConfig())
	if err != nil {
		return err
	}
	if s.sync.api, err = client.New(s.api.LoopbackConfig()); err != nil {
		return err
	}
	url := "https://" + net.JoinHostPort(localAddress(s.cfg.Listen.Addr()).String(), strconv.Itoa(int(s.cfg.Listen.Port())))
	s.host = pluginhost.New(pluginhost.Config{
		Log: s.cfg.Log, DataDir: s.cfg.DataDir, RunDir: s.cfg.RunDir,
		Credentials: authorityCredentials{s.pki, s.cfg.Node.Name}, APIServer: url, APICA: s.pki.CAPEM(),
		Cluster: clusterSettings(s.cfg.PodCIDRs, s.cfg.ServiceCIDRs, s.cfg.Domain, s.cfg.DNSAddress),
		Node:    pluginhost.Node{Name: s.cfg.Node.Name, Addresses: s.cfg.Node.Addresses, KubeletPort: kubeletPort},
		BuiltIn: builtinCommand(s.cfg.Builtins, s.cfg.Command), Embedded: s.cfg.Embedded, LogLevel: s.cfg.LogLevel, OnStatus: s.sync.onStatus, OnEvent: s.sync.onEvent,
		PluginDirs: pluginDirs(s.cfg.API.Plugins.Dirs, s.cfg.DataDir), Version: version.Git() + " " + version.Build(),
		CgroupParent: CgroupParent(s.cfg.RunDir), Now: s.cfg.time.clock(), Inherit: s.left, BinaryBefore: s.before,
		Accept: func(ctx context.Context, d pluginhost.Description) error {
			return auth.EnsurePluginRole(ctx, clientset, d.Name, d.Rules)
		},
		Shadows: s.shadows(clientset),
	})
	if s.nodes, err = newNodeKernels(s.pki, clientset); err != nil {
		return err
	}
	s.sync.host, s.sync.reviews, s.sync.runDir = s.host, s.api.Reviews(), s.cfg.RunDir
	close(s.hosts)
	s.sync.reviews.OnFault(s.sync.onFault)
	if err := s.prepareCluster(ctx, clientset, url); err != nil {
		return err
	}
	s.cfg.Log.Info("Kernel is ready", "version", version.Git(), "build", version.Build(), "api", url,
		"node", s.cfg.Node.Name, "after", time.Since(begin).Round(time.Millisecond))
	s.notify(daemon.SdNotifyReady)
	s.ready()
	defer func() {
		if !errors.Is(context.Cause(ctx), pluginhost.ErrHandOver) {
			s.notify(daemon.SdNotifyStopping)
		}
	}()
	signer := &signer{log: s.cfg.Log, client: clientset, pki: s.pki, now: s.cfg.time.clock(), plugins: nodePlugins(s.cfg.Builtins), objects: s.sync.api,
		services: s.cfg.ServiceCIDRs}
	return runHost(ctx, s.host, s.sync, signer.run, func(ctx context.Context) { s.finish(ctx, s.host) }, func(ctx context.Context) {
		s.cfg.time.each(ctx, func() { s.renew(ctx, url, signer) })
	})
}

// notify tells systemd, where it waits for it.
func (s *server) notify(state string) {
	if s.notifySocket == "" {
		return
	}
	if err := os.Setenv(notifySocketEnv, s.notifySocket); err != nil {
		return
	}
	if _, err := daemon.SdNotify(true, state); err != nil {
		s.cfg.Log.Warn("State not told to systemd", "err", err)
	}
}

// prepareCluster writes what plugins and people need before the first plugin starts.
func (s *server) prepareCluster(ctx context.Context, clientset kubernetes.Interface, url string) error {
	if err := ensureAgentRole(ctx, clientset); err != nil {
		return err
	}
	if err := s.sync.createMissing(ctx, s.cfg.Builtins); err != nil {
		return err
	}
	if err := s.sync.retain(ctx); err != nil {
		return err
	}
	var err error
	if s.admin, err = s.pki.Keep("admin", pki.Request{CommonName: "kubernetes-admin", Organizations: []string{"system:masters"}}); err != nil {
		return err
	}
	if err := s.writeAdmin(url); err != nil {
		return err
	}
	return writeClusterFile(s.cfg)
}

// writeAdmin writes the administrator's kubeconfig, if it is another one.
func (s *server) writeAdmin(url string) error {
	pair, err := s.admin.Pair()
	if err != nil {
		return err
	}
	return writeKubeconfig(filepath.Join(s.cfg.DataDir, AdminKubeconfig), url, s.pki.CAPEM(), pair)
}

// renew puts new certificates in the place of those that get old.
func (s *server) renew(ctx context.Context, url string, signer *signer) {
	if err := s.writeAdmin(url); err != nil {
		s.cfg.Log.Error("Kubeconfig of the administrator is not renewed", "err", err)
	}
	if err := s.api.Renew(); err != nil {
		s.cfg.Log.Error("Certificates of the API server are not renewed", "err", err)
	}
	s.host.Renew()
	signer.clean(ctx)
}

// runHost runs the plugin host and what feeds it, until ctx ends and all has ended.
func runHost(ctx context.Context, host *pluginhost.Host, objects *pluginSync, besides ...func(context.Context)) error {
	var feeders, reporter sync.WaitGroup
	reportCtx, stopReport := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReport()
	feeders.Go(func() { objects.follow(ctx) })
	for _, f := range besides {
		feeders.Go(func() { f(ctx) })
	}
	reporter.Go(func() { objects.report(reportCtx, context.WithoutCancel(ctx)) })
	err := host.Run(ctx)
	feeders.Wait()
	stopReport() // the plugins' end is still to be written
	reporter.Wait()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func makeDirs(data, run string) error {
	for flag, dir := range map[string]string{"data-dir": data, "run-dir": run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("--%s: %w: choose a folder that root can write", flag, err)
		}
	}
	return nil
}

// localAddress is where this machine reaches a listener.
func localAddress(listen netip.Addr) netip.Addr {
	switch {
	case !listen.IsUnspecified():
		return listen
	case listen.Is6():
		return netip.IPv6Loopback()
	default:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
}

// pluginDirs are the folders of programs that may run as plugins.
func pluginDirs(dirs []string, data string) []string {
	if len(dirs) > 0 {
		return dirs
	}
	return []string{filepath.Join(data, "plugins.d")}
}

func clusterSettings(pods, services []netip.Prefix, domain string, dns netip.Addr) pluginhost.Cluster {
	text := func(list []netip.Prefix) []string {
		out := make([]string, len(list))
		for i, p := range list {
			out[i] = p.String()
		}
		return out
	}
	return pluginhost.Cluster{PodCIDRs: text(pods), ServiceCIDRs: text(services), Domain: domain, DNSAddress: dns.String()}
}

func builtinCommand(builtins []Builtin, command func(string) (string, []string)) func(string) (pluginhost.Command, bool) {
	return func(name string) (pluginhost.Command, bool) {
		for _, b := range builtins {
			if b.Name == name {
				path, args := command(name)
				return pluginhost.Command{Path: path, Args: args}, true
			}
		}
		return pluginhost.Command{}, false
	}
}
