package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pki"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/core/version"
	"keelson.dev/keelson/proto/api/v1alpha1"
	"keelson.dev/keelson/proto/api/v1alpha1/client"
)

// AgentConfig is what an agent is told.
type AgentConfig struct {
	// JoinFile is what CreateJoinFile wrote on the server.
	JoinFile string
	// DataDir and RunDir, as in Config.
	DataDir, RunDir string
	// Plugins are about programs that run as plugins, as on the server.
	Plugins  apiserver.PluginOptions
	Builtins []Builtin
	Command  func(name string) (path string, args []string)
	// Embedded, as in Config.
	Embedded func(name string) (pluginhost.Embedded, bool)
	LogLevel string
	Log      *slog.Logger

	// Upgrade, as in Config.
	Upgrade *Upgrade

	time timeline // of tests
}

// joinFile is all that a node has to know and be. It holds private keys.
type joinFile struct {
	Version      int                           `json:"version"`
	Server       string                        `json:"server"`
	CA           []byte                        `json:"ca"`
	Node         Node                          `json:"node"`
	PodCIDRs     []netip.Prefix                `json:"podCIDRs"`
	ServiceCIDRs []netip.Prefix                `json:"serviceCIDRs"`
	Domain       string                        `json:"domain"`
	DNSAddress   netip.Addr                    `json:"dnsAddress"`
	Agent        pluginhost.KeyPair            `json:"agent"`
	Clients      map[string]pluginhost.KeyPair `json:"clients"`
	Serving      map[string]pluginhost.KeyPair `json:"serving"`
}

const joinVersion = 1

// ClusterFile keeps below the data folder what a join file needs of the server's
// settings, so that one can be made without asking the server.
const ClusterFile = "cluster.json"

// writeClusterFile keeps the settings that all nodes share.
func writeClusterFile(cfg Config) error {
	advertised := cfg.Listen.Addr()
	if advertised.IsUnspecified() {
		advertised = cfg.Node.Addresses[0]
	}
	data, err := json.MarshalIndent(joinFile{
		Version:  joinVersion,
		Server:   "https://" + net.JoinHostPort(advertised.String(), strconv.Itoa(int(cfg.Listen.Port()))),
		PodCIDRs: cfg.PodCIDRs, ServiceCIDRs: cfg.ServiceCIDRs, Domain: cfg.Domain, DNSAddress: cfg.DNSAddress,
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(cfg.DataDir, ClusterFile), data)
}

// CreateJoinFile writes the file with which a node joins the cluster whose server
// has its data in dataDir. Whoever has the file can act as that node for a year, and
// for longer if it asks for new certificates in time, as the agent does.
func CreateJoinFile(dataDir string, node Node, builtins []Builtin, path string) error {
	return createJoinFile(dataDir, node, builtins, path)
}

func createJoinFile(dataDir string, node Node, builtins []Builtin, path string, opts ...pki.Option) error {
	data, err := os.ReadFile(filepath.Join(dataDir, ClusterFile))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s holds no cluster: run this on the server, after keelson up, with its --data-dir", dataDir)
	}
	if err != nil {
		return err
	}
	var join joinFile
	if err := json.Unmarshal(data, &join); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dataDir, ClusterFile), err)
	}
	authority, err := pki.Open(filepath.Join(dataDir, "pki"), opts...)
	if err != nil {
		return err
	}
	join.CA, join.Node = authority.CAPEM(), node
	if join.Agent, err = nodePair(authority, node.Name); err != nil {
		return err
	}
	join.Clients, join.Serving = map[string]pluginhost.KeyPair{}, map[string]pluginhost.KeyPair{}
	issue := authorityCredentials{authority, node.Name}
	for _, b := range builtins {
		if b.Scope != v1alpha1.PluginScopeNode {
			continue
		}
		if b.Kind != kubeletKind { // which is the agent
			if join.Clients[b.Name], err = issue.Client(b.Name, b.Kind); err != nil {
				return err
			}
		}
		if join.Serving[b.Name], err = issue.Serving(b.Name, node.Addresses, []string{node.Name}); err != nil {
			return err
		}
	}
	if data, err = json.MarshalIndent(join, "", "  "); err != nil {
		return err
	}
	return writeFile(path, data)
}

func readJoinFile(path string) (*joinFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--join: %w", err)
	}
	defer func() { _ = file.Close() }()
	decoder := json.NewDecoder(io.LimitReader(file, 1<<20))
	decoder.DisallowUnknownFields()
	var join joinFile
	if err := decoder.Decode(&join); err != nil {
		return nil, fmt.Errorf("--join %s: not a join file (%w): make one on the server with keelson agent create-join-file", path, err)
	}
	if join.Version != joinVersion {
		return nil, fmt.Errorf("--join %s: version %d, this keelson reads version %d: make the file with the same release", path, join.Version, joinVersion)
	}
	if join.Server == "" || join.Node.Name == "" || len(join.Node.Addresses) == 0 || len(join.CA) == 0 {
		return nil, fmt.Errorf("--join %s: server, node or ca is missing: make the file anew on the server", path)
	}
	return &join, nil
}

// RunAgent runs the plugins of a further node until ctx ends. It does not need
// the server to answer at its start.
func RunAgent(ctx context.Context, cfg AgentConfig) error {
	defer logLibraries(cfg.Log)()
	join, err := readJoinFile(cfg.JoinFile)
	if err != nil {
		return err
	}
	if err := makeDirs(cfg.DataDir, cfg.RunDir); err != nil {
		return err
	}
	r, err := newReplacer(cfg.Log, cfg.DataDir, cfg.RunDir, cfg.Upgrade)
	if err != nil {
		return err
	}
	cfg.Command = r.command(cfg.Command)
	return r.run(ctx, func(ctx context.Context) error { return runAgent(ctx, cfg, join, r) })
}

// runAgent runs an agent until ctx ends.
func runAgent(ctx context.Context, cfg AgentConfig, join *joinFile, r *replacer) error {
	// The connection between host and plugins never leaves the machine: a CA of its
	// own vouches for it.
	local, err := pki.Open(filepath.Join(cfg.DataDir, "pki"), pki.WithClock(cfg.time.clock()))
	if err != nil {
		return err
	}
	own, err := openIdentity(join, local, filepath.Join(cfg.DataDir, IdentityFile), cfg.time.clock(), cfg.Log)
	if err != nil {
		return err
	}
	api := &rest.Config{Host: join.Server, Transport: own.transport, UserAgent: "keelson-agent"}
	sync := newPluginSync(cfg.Log, join.Node.Name, false, cfg.Builtins)
	if sync.api, err = client.New(api); err != nil {
		return err
	}
	clientset, err := kubernetes.NewForConfig(api)
	if err != nil {
		return err
	}
	sync.host = pluginhost.New(pluginhost.Config{
		Log: cfg.Log, DataDir: cfg.DataDir, RunDir: cfg.RunDir,
		Credentials: own, APIServer: join.Server, APICA: join.CA,
		Cluster: clusterSettings(join.PodCIDRs, join.ServiceCIDRs, join.Domain, join.DNSAddress),
		Node:    pluginhost.Node{Name: join.Node.Name, Addresses: join.Node.Addresses, KubeletPort: kubeletPort},
		BuiltIn: builtinCommand(cfg.Builtins, cfg.Command), Embedded: cfg.Embedded, LogLevel: cfg.LogLevel, OnStatus: sync.onStatus, OnEvent: sync.onEvent,
		PluginDirs: pluginDirs(cfg.Plugins.Dirs, cfg.DataDir), Version: version.Git() + " " + version.Build(),
		CgroupParent: CgroupParent(cfg.RunDir), Now: cfg.time.clock(), Inherit: r.left, BinaryBefore: r.before,
	})
	sync.events = newPluginEvents(clientset.CoreV1(), join.Node.Name)
	defer sync.events.stop()
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	sync.before = func(ctx context.Context) bool {
		err := awaitRelease(ctx, cfg.Log, func(ctx context.Context) (*apiversion.Info, error) { return askVersion(ctx, clientset) })
		if errors.Is(err, ErrRelease) {
			refuse(fmt.Errorf("server %s: %w", join.Server, err))
		}
		return err == nil
	}
	own.ask = func(r request) (pluginhost.KeyPair, error) { return own.request(ctx, clientset, r) }
	cfg.Log.Info("Agent runs", "version", version.Git(), "build", version.Build(), "server", join.Server, "node", join.Node.Name)
	r.ready()
	answers := func(ctx context.Context) { serveAgent(ctx, cfg.Log, own, join.Node.Addresses[0], sync.host) }
	err = runHost(ctx, sync.host, sync, func(ctx context.Context) { r.finish(ctx, sync.host) }, answers, func(ctx context.Context) {
		cfg.time.each(ctx, func() {
			runs := func(plugin string) bool { _, ok := sync.host.Status(plugin); return ok }
			if err := own.renew(ctx, clientset, runs); err != nil && ctx.Err() == nil {
				cfg.Log.Error("Certificates of this node are not renewed", "err", err)
			}
			sync.host.Renew()
		})
	})
	r.hand(sync.host, err)
	return err
}

// askVersion is discovery's ServerVersion, but for the context.
func askVersion(ctx context.Context, clientset kubernetes.Interface) (*apiversion.Info, error) {
	data, err := clientset.Discovery().RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var info apiversion.Info
	if err := json.Unmarshal(data, &info); err != nil {
		return nil, fmt.Errorf("version of the server: %w", err)
	}
	return &info, nil
}

// agentRole is what agents may do by themselves: follow Plugin objects and report.
const agentRole = "system:keelson-agent"

func ensureAgentRole(ctx context.Context, clientset kubernetes.Interface) error {
	_, err := clientset.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: agentRole},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"plugins"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{v1alpha1.GroupName}, Resources: []string{"plugins/status"}, Verbs: []string{"update", "patch"}},
		},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create cluster role %s: %w", agentRole, err)
	}
	_, err = clientset.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: agentRole},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: agentRole},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:nodes"}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create cluster role binding %s: %w", agentRole, err)
	}
	return nil
}
