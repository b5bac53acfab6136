package kit

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Scope says where a plugin runs.
type Scope string

const (
	// ScopeCluster is one active instance for the cluster, on a server.
	ScopeCluster Scope = "Cluster"
	// ScopeNode is one instance on each node.
	ScopeNode Scope = "Node"
)

// Plugin says what a plugin is and how to make it.
type Plugin struct {
	// Name, a DNS label, unique in the cluster.
	Name string
	// Generic programs run under any name: Name, Kind, Scope and Rules are those of the
	// Plugin object that names the program in spec.source.program.
	Generic bool
	// OnDemand, of a built-in plugin: it runs only where someone makes a Plugin object for
	// it. Of the others the kernel makes one itself.
	OnDemand bool
	// Kind: runtime, network, proxy, dns, kubelet, scheduler, controllers, ...
	Kind string
	// Description is one sentence for people.
	Description string
	// Version, for people; empty takes it from the Go build information.
	Version string
	// Scope says where it runs; empty is ScopeNode.
	Scope Scope
	// Rules are the RBAC rules that it needs, and no more.
	Rules []rbacv1.PolicyRule
	// Requires are the kinds whose sockets it calls: "runtime", "network".
	Requires []string
	// Capabilities are abilities that the kind's contract names.
	Capabilities []string
	// ServingCertificate asks for Env.Serving.
	ServingCertificate bool
	// ConfigSchema is the JSON schema of its configuration; empty: takes none.
	ConfigSchema string
	// InProcess says that it may run within the kernel's process (Embed): it reads no
	// arguments, executes and mounts nothing, enters no namespace, changes nothing that is
	// the process's (signals, environment, klog), and all that it began ends with Start.
	InProcess bool
	// New checks and allocates, and starts nothing. It takes its configuration from
	// Env.LoadConfig, which reports bad fields. It is called anew for each Configure
	// and for each activation after the first.
	New func(env *Env) (Runner, error)
}

// Runner does a plugin's work.
type Runner interface {
	// Start works until ctx ends, and returns when all that it began has ended. An
	// error or a panic ends the process, and the kernel starts it again. It is called
	// at most once.
	Start(ctx context.Context) error
}

// Drainer is a Runner that can finish what it has begun.
type Drainer interface {
	// Drain takes on nothing new and returns when the work begun is done, or when ctx
	// ends. Start's context ends after it.
	Drain(ctx context.Context) error
}

// Renewer is a Runner that hands its client certificate on, to a file or a process.
// Others need nothing: Env.RESTConfig follows by itself.
type Renewer interface {
	// Renewed is told the client identity that takes the place of Env.API's. It may be
	// called before Start and at any time while it runs.
	Renewed(client KeyPair) error
}

// Closer is a Runner to which New gave what has to be given back (a queue with a goroutine).
type Closer interface {
	// Close is called once and last: after Start and Warm have returned, or where they were
	// never called, as the runner of a standby that is not needed any more.
	Close()
}

// RunnerFunc makes a function a Runner.
type RunnerFunc func(ctx context.Context) error

// Start calls f.
func (f RunnerFunc) Start(ctx context.Context) error { return f(ctx) }

var _ Runner = RunnerFunc(nil)
