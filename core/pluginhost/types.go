package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// ErrNotFound is returned for a plugin that was never given to Ensure, or was removed.
var ErrNotFound = errors.New("plugin not found")

// ErrNothingToTry is returned by SwapAgain for a plugin whose revision was neither refused
// nor rolled back.
var ErrNothingToTry = errors.New("what the spec says was neither refused nor rolled back")

// KeyPair is a certificate chain and its private key in PEM.
type KeyPair struct {
	Certificate, PrivateKey []byte
}

// Transport is both ends of the connection between the host and one plugin.
type Transport struct {
	// Host is a client certificate with common name pluginv1.KernelName.
	Host KeyPair
	// Plugin is a server certificate with DNS name pluginv1.TransportName(plugin).
	Plugin KeyPair
	// CA vouches for both.
	CA []byte
}

// Credentials issues identities. Its methods are called for each start of a plugin and
// before what they gave ends, from any goroutine.
type Credentials interface {
	// Client is the identity system:plugin:NAME, group system:plugins; of the kind
	// kubelet it is the node's, system:node:NODE in the group system:nodes.
	Client(name, kind string) (KeyPair, error)
	// Serving is for the ports that the plugin serves at its node.
	Serving(name string, ips []netip.Addr, dns []string) (KeyPair, error)
	// Transport is for the connection between host and plugin.
	Transport(name string) (Transport, error)
}

// Command is a program to execute.
type Command struct {
	Path string
	// Args are the arguments without the program's name.
	Args []string
}

// Cluster has settings that all nodes share; see plugin.v1.Cluster.
type Cluster struct {
	PodCIDRs, ServiceCIDRs []string
	Domain                 string
	DNSAddress             string
}

// Node says which machine this is.
type Node struct {
	Name string
	// Addresses of the node; the first is its internal IP.
	Addresses   []netip.Addr
	KubeletPort int32
}

// Config is what the host needs. Fields without a remark are required.
type Config struct {
	Log *slog.Logger
	// DataDir holds plugins/NAME (a plugin's state) and logs/NAME.log; /var/lib/keelson.
	DataDir string
	// RunDir holds the kinds' sockets, plugins/NAME and host/; /run/keelson. Paths of
	// Unix sockets are limited to 107 bytes, so keep it short.
	RunDir      string
	Credentials Credentials
	// APIServer is the URL for plugins, APICA the bundle that vouches for it.
	APIServer string
	APICA     []byte
	Cluster   Cluster
	Node      Node
	// LogLevel of the plugins: debug, info (the default), warn or error.
	LogLevel string
	// BuiltIn says how to execute a built-in plugin; false: there is none of that name.
	BuiltIn func(name string) (Command, bool)
	// Accept is asked before a plugin is configured: the kernel grants its rules there.
	// An error is retried with back-off. Nil accepts all.
	Accept func(ctx context.Context, d Description) error
	// OnStatus is told each change, in order for one plugin; it must not block for long,
	// nor call the host. Nil: nobody listens.
	OnStatus func(name string, s Status)
	// Env are variables for all plugins ("GOMEMLIMIT=64MiB") besides PATH, HOME, TZ and
	// those of HTTP proxies and CA files, which are passed on. The host's other
	// variables are not.
	Env []string
	// Now is the clock by which credentials get old; the machine's by default.
	Now func() time.Time
	// CgroupParent is below which the plugins' cgroups are; "/keelson/plugins" by
	// default, "none" for no cgroups.
	CgroupParent string
}

// Spec says what should run.
type Spec struct {
	// Name of the Plugin object, a DNS label; the program has to describe itself so.
	Name string
	// Kind, if set, has to be what the program describes.
	Kind string
	// BuiltIn selects the built-in plugin Name; else Path is an absolute path.
	BuiltIn bool
	// Program, if set, is the built-in program that runs as this plugin: it takes name,
	// Kind, Scope and Rules as its own.
	Program string
	// Scope for a Program: Cluster, or Node. Others say it themselves.
	Scope string
	// Rules for a Program.
	Rules []rbacv1.PolicyRule
	Path  string
	// SHA256 of the file at Path in hex; empty is not checked.
	SHA256 string
	// Args are more arguments for the program.
	Args []string
	// Config is the plugin's own configuration; empty means all defaults.
	Config json.RawMessage
	// Enabled plugins run.
	Enabled bool
}

func (s Spec) equal(o Spec) bool {
	return s.Name == o.Name && s.Kind == o.Kind && s.BuiltIn == o.BuiltIn && s.Program == o.Program && s.Scope == o.Scope &&
		equality.Semantic.DeepEqual(s.Rules, o.Rules) && s.Path == o.Path && s.SHA256 == o.SHA256 &&
		slices.Equal(s.Args, o.Args) && bytes.Equal(s.Config, o.Config) && s.Enabled == o.Enabled
}

// Description is what a plugin says of itself.
type Description struct {
	Name, Kind, Version, Description string
	// Scope is "Cluster" or "Node".
	Scope              string
	Capabilities       []string
	Rules              []rbacv1.PolicyRule
	Requires           []string
	ConfigSchema       string
	ServingCertificate bool
}

// Phase is where a plugin is in its life.
type Phase string

const (
	// PhaseStarting means that it is launched and not yet able to do all its work.
	PhaseStarting Phase = "Starting"
	// PhaseRunning means that it does its work.
	PhaseRunning Phase = "Running"
	// PhaseDegraded means that it works in part; Message says what is amiss.
	PhaseDegraded Phase = "Degraded"
	// PhaseBackOff means that it ended and is started again soon.
	PhaseBackOff Phase = "BackOff"
	// PhaseStopped means that it is not wanted.
	PhaseStopped Phase = "Stopped"
	// PhaseFailed means that it cannot run; LastError says why and what would help.
	PhaseFailed Phase = "Failed"
)

// Status is how a plugin is.
type Status struct {
	Phase Phase
	// PID of the process; 0: there is none.
	PID int
	// Restarts counts starts after the first, since the kernel's start.
	Restarts int
	// Version as described; empty before the first start.
	Version string
	// Protocol is the version of the base contract that was negotiated; 0 before the
	// first handshake.
	Protocol int
	// Message is what the plugin says of its state.
	Message string
	// LastError is why it ended or could not start last; it stays while it runs again.
	LastError string
	// StartedAt is when the present process was started.
	StartedAt time.Time
	// Description as of the last start; nil before.
	Description *Description
}
