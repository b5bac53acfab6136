package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/netip"

	"keelson.dev/keelson/core/apiserver"
	"keelson.dev/keelson/core/pluginhost"
	"keelson.dev/keelson/proto/api/v1alpha1"
)

// Builtin is a plugin that is linked into the binary.
type Builtin struct {
	Name, Kind string
	Scope      v1alpha1.PluginScope
	// Generic is a program that runs under other plugins' names (spec.source.program);
	// no Plugin object is made for it.
	Generic bool
	// OnDemand has no Plugin object made for it: it runs once somebody makes one.
	OnDemand bool
}

// Node is the machine that the kernel runs on.
type Node struct {
	// Name of its Node object, a DNS subdomain.
	Name string `json:"name"`
	// Addresses; the first is the internal IP.
	Addresses []netip.Addr `json:"addresses"`
}

// PortRange has both ends in it.
type PortRange struct{ Min, Max int }

// Config is what a server is told. No field has a default here: the CLI's flags
// have them.
type Config struct {
	// DataDir holds what outlives the machine's boot, RunDir sockets and the like.
	DataDir, RunDir string
	// Listen is where the API is served.
	Listen netip.AddrPort
	Node   Node
	// PodCIDRs and ServiceCIDRs are the cluster's networks, the primary one first.
	PodCIDRs, ServiceCIDRs []netip.Prefix
	NodePorts              PortRange
	// DNSAddress is in the first of ServiceCIDRs.
	DNSAddress netip.Addr
	// Domain is the DNS domain of the cluster.
	Domain string
	// Builtins are started unless their Plugin objects say otherwise.
	Builtins []Builtin
	// Command is how a built-in plugin is started.
	Command func(name string) (path string, args []string)
	// Embedded says which built-in plugins run within this process, and how; nil: none.
	Embedded func(name string) (pluginhost.Embedded, bool)
	// LogLevel is handed to plugins.
	LogLevel string
	Log      *slog.Logger
	// Upgrade lets the server be replaced by another binary while it runs; nil: it cannot be.
	Upgrade *Upgrade
	// API is what the operator chose about the API server.
	API *apiserver.Options

	time timeline // of tests
}

// EncryptionDir is the folder of a data folder with the keys that encrypt Secrets.
const EncryptionDir = "encryption"

// kubeletPort is where kubelets serve their API, as upstream's do.
const kubeletPort = 10250

// DefaultRunDir is the run folder of a usual installation.
const DefaultRunDir = "/run/keelson"

// CgroupParent is the cgroup below which the plugins of a run folder have theirs:
// two clusters on one machine must not take each other's for left over.
func CgroupParent(runDir string) string {
	if runDir == DefaultRunDir {
		return "/keelson/plugins"
	}
	sum := sha256.Sum256([]byte(runDir))
	return "/keelson-" + hex.EncodeToString(sum[:4]) + "/plugins"
}
