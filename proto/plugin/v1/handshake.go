package pluginv1

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
	// The descriptor stays open for as long as the kernel lives; its end of file
	// means that the kernel is gone and the plugin has to end.
	HandoverEnv = "KEELSON_PLUGIN_HANDOVER_FD"
	// InstanceEnv names the environment variable with the random identity of this
	// start. It is no secret: after a crash of the kernel it tells an orphan from
	// a stranger's process that has got the same process number.
	InstanceEnv = "KEELSON_PLUGIN_INSTANCE"
	// KernelName is the common name in the client certificate with which the kernel
	// calls plugins; a plugin accepts no other caller.
	KernelName = "system:kernel"
)

// Handover is what a plugin process is told before its first byte on a socket:
// the TLS identity with which it serves PluginService. It goes through a pipe, so
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
}

// TransportName is the DNS name in the certificate with which plugin name serves.
func TransportName(name string) string { return name + ".plugins.keelson.internal" }
