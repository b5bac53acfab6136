package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
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
	// Embedded says how a built-in plugin runs within this process; false: that one runs in
	// a process of its own. Nil: all do.
	Embedded func(name string) (Embedded, bool)
	// Accept is asked before a plugin is configured: the kernel grants its rules there.
	// While two processes of a plugin run, d has the rules of both. An error is tried
	// again. Nil accepts all.
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
	// OnEvent is told what is worth an event of the Plugin object, as OnStatus is told of
	// changes. Nil: nobody listens.
	OnEvent func(name string, e Event)
	// PluginDirs are the folders that programs by path have to lie in, with symbolic links
	// resolved. None: anywhere.
	PluginDirs []string
	// Version of the host's binary, part of the revision of built-in plugins.
	Version string
	// Inherit is what the host before left running; nil: nothing.
	Inherit *State
	// BinaryBefore is the binary from which built-in plugins of the version before are
	// started again; empty: there is none.
	BinaryBefore string
	// Periods are how long the host waits; zero ones have defaults.
	Periods Periods
	// Shadows is what shadows need; nil: none are run.
	Shadows *Shadows
	// CgroupParent is below which the plugins' cgroups are; "/keelson/plugins" by
	// default, "none" for no cgroups.
	CgroupParent string
}

// Periods are how long the host waits for plugins.
type Periods struct {
	// Configure bounds Configure, in which a plugin may probe the machine; 60 s by default.
	Configure time.Duration
	// Standby is what a candidate has from its configuration to STANDBY; 120 s.
	Standby time.Duration
	// Activate bounds Activate, which answers when the plugin is at work; 10 s.
	Activate time.Duration
	// Deactivate is what the active one has to give up its work; 10 s.
	Deactivate time.Duration
	// Ready is what a candidate that took over has until READY; 60 s.
	Ready time.Duration
	// Streams is how long a process that was replaced is kept for the streams that it has
	// open for others; 1 h.
	Streams time.Duration
	// Silence is the longest time without a report (the contract says 10 s) after which a
	// plugin counts as hung; 30 s.
	Silence time.Duration
	// End is what a plugin within this process has to end when it is killed, before it
	// counts as one that hangs; 5 s.
	End time.Duration
}

func (p *Periods) setDefaults() {
	for _, d := range []struct {
		period *time.Duration
		value  time.Duration
	}{
		{&p.Configure, 60 * time.Second}, {&p.Standby, 120 * time.Second}, {&p.Activate, 10 * time.Second}, {&p.Deactivate, 10 * time.Second},
		{&p.Ready, 60 * time.Second}, {&p.Streams, time.Hour}, {&p.Silence, 30 * time.Second}, {&p.End, 5 * time.Second},
	} {
		if *d.period <= 0 {
			*d.period = d.value
		}
	}
}

// Limits bound a process of a plugin, by its cgroup. Zero: no limit.
type Limits struct {
	// Memory in bytes.
	Memory int64
	// MilliCPU are thousandths of a core.
	MilliCPU int64
	// Pids are processes and threads.
	Pids int64
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
	Path  string
	// SHA256 of the file at Path in hex; empty is not checked.
	SHA256 string
	// Args are more arguments for the program.
	Args []string
	// Config is the plugin's own configuration; empty means all defaults.
	Config json.RawMessage
	// Enabled plugins run.
	Enabled bool
	// Rules are what the program may have; what it declares beyond them keeps it from
	// starting. Of a built-in plugin all is accepted; a Program declares just these.
	Rules  []rbacv1.PolicyRule
	Limits Limits
	// Watch is how long a process that was replaced is kept; zero: not at all.
	Watch time.Duration
	// Restart ends the old process before the new one is started.
	Restart bool
	// Shadow decides beside the active one; nil: none does. It is no part of the revision.
	Shadow *ShadowSpec
	// Generation of the object, for the history.
	Generation int64
	// Restore is what an earlier host left; it is read when a plugin is ensured first.
	Restore *Restore
}

// Restore is what is known of a plugin from an earlier host.
type Restore struct {
	// Active is what ran; nil: nothing is known, or nothing did.
	Active *Spec
	// Revision of Active. If it is another one now (the binary has changed), Active is not used.
	Revision string
	// Failed is the revision that was refused or rolled back, FailedOutcome what became of it
	// and FailedMessage why.
	Failed        string
	FailedOutcome Outcome
	FailedMessage string
	// History is that of before.
	History []Revision
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

// CandidatePhase is how far a swap is; see v1alpha1.PluginCandidatePhase.
type CandidatePhase string

// The phases of a swap.
const (
	CandidateStarting CandidatePhase = "Starting"
	CandidateStandby  CandidatePhase = "Standby"
	CandidateWatched  CandidatePhase = "Watched"
)

// Candidate is a swap under way.
type Candidate struct {
	Revision string
	Phase    CandidatePhase
	PID      int
	Since    time.Time
	Message  string
}

// Outcome is what became of a revision; see v1alpha1.PluginOutcome.
type Outcome string

// The outcomes.
const (
	OutcomeActive     Outcome = "Active"
	OutcomeReplaced   Outcome = "Replaced"
	OutcomeRolledBack Outcome = "RolledBack"
	OutcomeRefused    Outcome = "Refused"
)

// Revision is one entry of a plugin's history.
type Revision struct {
	Revision   string
	Generation int64
	Version    string
	Outcome    Outcome
	Message    string
	Start, End time.Time
	// Gap is how long nobody was active when it took over; negative: it replaced nobody.
	Gap  time.Duration
	Spec Spec
}

// History is the last revisions, newest first. It is never changed, only replaced.
type History struct{ Revisions []Revision }

// Event is something that happened to a plugin.
type Event struct {
	Warning         bool
	Reason, Message string
}

// What Status.Progress says.
const (
	ProgressStarting   = "Starting"
	ProgressStandby    = "Standby"
	ProgressWatching   = "Watching"
	ProgressComplete   = "Complete"
	ProgressRolledBack = "RolledBack"
	ProgressRefused    = "Refused"
)

// The reasons of events.
const (
	EventStarted     = "Started"
	EventSwapStarted = "SwapStarted"
	EventSwapped     = "Swapped"
	EventRolledBack  = "RolledBack"
	EventRefused     = "Refused"
	EventBackOff     = "BackOff"
	EventFailed      = "Failed"
	EventKilling     = "Killing"
	EventLimitNotSet = "LimitNotSet"
	EventHanging     = "Hanging"

	EventShadowStarted = "ShadowStarted"
	EventShadowFailed  = "ShadowFailed"
)

// Status is how a plugin is.
type Status struct {
	Phase Phase
	// PID of the process; 0: there is none.
	PID int
	// InProcess says that it runs within the host's process, whose number PID is.
	InProcess bool
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
	// Generation of the spec that this is about.
	Generation int64
	// Revision is what is active, or should be.
	Revision string
	// Candidate is a swap under way; its Revision is empty if there is none.
	Candidate Candidate
	// Progress is how the last swap went: Starting, Standby, Watching, Complete, RolledBack
	// or Refused; ProgressMessage says why.
	Progress, ProgressMessage string
	// NotAccepted are the rules that the program declares and the spec does not accept.
	NotAccepted string
	// History is never nil after the first start.
	History *History
	// Shadow is the process that decides beside the active one.
	Shadow ShadowStatus
}
