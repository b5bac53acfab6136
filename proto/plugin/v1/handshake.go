package pluginv1

import rbacv1 "k8s.io/api/rbac/v1"

// The handshake of hashicorp/go-plugin between the kernel and a plugin process.
// The cookie is no secret: it only keeps people from starting a plugin by hand.
const (
	// CookieKey and CookieValue are the environment variable that says "you were
	// started as a plugin".
	CookieKey   = "KEELSON_PLUGIN"
	CookieValue = "7d9f7c5e-keelson-plugin"
	// ServiceName is the key of PluginService in go-plugin's plugin set.
	ServiceName = "plugin"
)

// Versions of the contract, negotiated at the handshake: the kernel names those that it
// speaks in PLUGIN_PROTOCOL_VERSIONS ("1,2"), the plugin answers with the highest one that
// it speaks too, or with one of its own, which the kernel then refuses.
const (
	// Version1 is Describe, Configure, Activate, Deactivate, Health, Renew, Drain and Stop.
	Version1 = 1
	// Version2 is Version1 with what a swap without a gap and shadow mode need: sockets that
	// the kernel hands over, the mode in Activate, and the Decisions stream. Of a plugin
	// that speaks Version1 alone the kernel wants none of it.
	Version2 = 2
)

// ProtocolVersions are the versions that this module speaks, ascending.
func ProtocolVersions() []int { return []int{Version1, Version2} }

// What the kernel gives a plugin process besides the handshake.
const (
	// HandoverEnv names the environment variable with the number of the inherited
	// file descriptor from which the plugin reads its Handover: one line of JSON.
	// It is one end of a Unix stream socket pair. The other stays open for as long
	// as the kernel lives; its end of file means that the kernel is gone and the
	// plugin has to end. What a plugin may write to it are SocketRequests.
	HandoverEnv = "KEELSON_PLUGIN_HANDOVER_FD"
	// InstanceEnv names the environment variable with the random identity of this
	// start. It is no secret: after a crash of the kernel it tells an orphan from
	// a stranger's process that has got the same process number.
	InstanceEnv = "KEELSON_PLUGIN_INSTANCE"
	// Deactivated is the message of UNAVAILABLE with which a plugin that others call ends a
	// call because it was deactivated: the caller repeats it, and reaches the process that
	// took over.
	Deactivated = "the plugin is deactivated: call again"
	// KernelName is the common name in the client certificate with which the kernel
	// calls plugins; a plugin accepts no other caller.
	KernelName = "system:kernel"
)

// Handover is what a plugin process is told before its first byte on a socket:
// the TLS identity with which it serves PluginService. It goes through a socket pair, so
// that neither arguments, nor environment, nor the disk ever hold the key.
type Handover struct {
	// Name of the Plugin object; equals Describe's name unless the plugin is
	// someone else's, which the kernel then refuses.
	Name string `json:"name"`
	// Certificate and PrivateKey are the plugin's own, in PEM.
	Certificate string `json:"certificate"`
	PrivateKey  string `json:"privateKey"`
	// CA vouches for the kernel's client certificate.
	CA string `json:"ca"`
	// As is what the Plugin object says, for a program that runs under any name
	// (spec.source.program) and has to describe itself so; nil for others.
	As *As `json:"as,omitempty"`
}

// As is what a program that runs under any name describes itself as.
type As struct {
	// Kind is spec.kind of the Plugin object.
	Kind string `json:"kind"`
	// Scope is spec.scope: Cluster or Node.
	Scope string `json:"scope"`
	// Rules are spec.rules: what an administrator has accepted is what it asks for.
	Rules []rbacv1.PolicyRule `json:"rules,omitempty"`
}

// SocketRequest asks the kernel for a listening socket: one line of JSON that a plugin
// writes to the handover descriptor, at any time, several before the first answer if it
// likes. The kernel opens the socket when a process of the plugin asks first, keeps it,
// and hands the same to each later process of the plugin that asks for the same network
// and address: what connects or arrives while none of them accepts waits in the queue.
// So each closes its descriptor as it likes; the socket itself is closed when the plugin
// is disabled or removed, when its new process has taken over and has not asked for it, or
// when the processes that asked for it have said Close.
//
// A datagram that one process has taken from the queue no other sees: a process reads
// while it is active, and not before.
type SocketRequest struct {
	// ID is answered in SocketAnswer; any number.
	ID int64 `json:"id"`
	// Network is "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6", "unix" or "unixgram".
	Network string `json:"network"`
	// Address is as for Go's net.Listen: "HOST:PORT" with numbers only, an empty host
	// for all addresses, port 0 for any; or a path. A Unix socket has mode 0600 and
	// replaces what stands at its path. An address that the machine has not yet is bound
	// all the same (IP_FREEBIND).
	Address string `json:"address"`
	// Close says that the plugin no longer wants the socket of that network and address.
	// The answer has no descriptor.
	Close bool `json:"close,omitempty"`
}

// SocketAnswer is the kernel's answer to a SocketRequest: one line of JSON. With its
// first byte comes, unless Error is set, one file descriptor (SCM_RIGHTS). Answers come
// in the order of the requests.
type SocketAnswer struct {
	// ID of the request.
	ID int64 `json:"id"`
	// Error says why there is no socket: "listen tcp 192.0.2.1:53: bind: address already in use".
	Error string `json:"error,omitempty"`
}

// MaxSocketLine is the most that a line of a SocketRequest may have, in bytes. A process
// that sends a longer one, or no JSON, gets an answer with ID 0 and an error, and is not
// listened to any more.
const MaxSocketLine = 4096

// TransportName is the DNS name in the certificate with which plugin name serves.
func TransportName(name string) string { return name + ".plugins.keelson.internal" }
