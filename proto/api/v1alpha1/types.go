package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// PluginScope says how often a plugin runs.
// +enum
type PluginScope string

const (
	// PluginScopeCluster is a plugin of which one instance is active in the cluster.
	PluginScopeCluster PluginScope = "Cluster"
	// PluginScopeNode is a plugin that runs on every node.
	PluginScopeNode PluginScope = "Node"
)

// PluginPhase is where a plugin is in its life.
// +enum
type PluginPhase string

const (
	// PluginPending is a plugin that has not been started yet.
	PluginPending PluginPhase = "Pending"
	// PluginStarting is a plugin whose process runs but is not ready yet.
	PluginStarting PluginPhase = "Starting"
	// PluginRunning is a plugin that does its work.
	PluginRunning PluginPhase = "Running"
	// PluginDegraded is a plugin that runs but says that something is wrong.
	PluginDegraded PluginPhase = "Degraded"
	// PluginBackOff is a plugin that ended; it is started again after a back-off.
	PluginBackOff PluginPhase = "BackOff"
	// PluginStopped is a plugin that does not run because it, or the kernel, was stopped.
	PluginStopped PluginPhase = "Stopped"
	// PluginFailed is a plugin that cannot run; status.lastError says why.
	PluginFailed PluginPhase = "Failed"
	// PluginDisabled is a plugin that spec.enabled keeps from running.
	PluginDisabled PluginPhase = "Disabled"
)

// Plugin is a process behind a gRPC contract that the kernel launches,
// configures, supervises and swaps.
type Plugin struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what should run.
	// +optional
	Spec PluginSpec `json:"spec,omitempty"`
	// Status is what runs, as the plugin host saw it last.
	// +optional
	Status PluginStatus `json:"status,omitempty"`
}

// PluginSpec says what should run and how.
type PluginSpec struct {
	// Kind names the contract: controllers, scheduler, kubelet, runtime, network, proxy, dns, or another.
	Kind string `json:"kind"`
	// Source is where the executable comes from.
	// +optional
	Source PluginSource `json:"source,omitempty"`
	// Scope is Cluster or Node. Empty means what the plugin says of itself.
	// +optional
	Scope PluginScope `json:"scope,omitempty"`
	// Args are handed to the executable.
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`
	// Config is the plugin's own configuration, checked against the schema that the plugin describes.
	// +optional
	Config *runtime.RawExtension `json:"config,omitempty"`
	// Enabled keeps the plugin from running when false. Defaults to true.
	// +optional
	Enabled *bool `json:"enabled,omitempty"`
}

// PluginSource is where a plugin's executable comes from: linked into the
// kernel's binary, or a file on the node.
type PluginSource struct {
	// BuiltIn is true for a plugin that is linked into the kernel's own binary.
	// +optional
	BuiltIn bool `json:"builtIn,omitempty"`
	// Path is the executable's absolute path. Exactly one of builtIn and path is set.
	// +optional
	Path string `json:"path,omitempty"`
	// SHA256 is the executable's checksum, 64 hexadecimal digits. Required with path.
	// +optional
	SHA256 string `json:"sha256,omitempty"`
}

// PluginStatus is what runs, as the plugin host saw it last.
type PluginStatus struct {
	// ObservedGeneration is the generation of the spec that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Phase is where the plugin is in its life.
	// +optional
	Phase PluginPhase `json:"phase,omitempty"`
	// PID is the process, 0 when none runs.
	// +optional
	PID int64 `json:"pid,omitempty"`
	// Restarts counts how often the process was started again.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`
	// Version is what the plugin says of itself.
	// +optional
	Version string `json:"version,omitempty"`
	// LastError says why the process ended, or did not start, the last time.
	// +optional
	LastError string `json:"lastError,omitempty"`
	// StartedAt is when the process was started.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// Conditions say more: Ready, Progressing, Accepted.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`
	// Nodes says the same per node for a plugin that runs on each.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchStrategy=merge
	// +patchMergeKey=name
	Nodes []PluginNodeStatus `json:"nodes,omitempty" patchStrategy:"merge" patchMergeKey:"name"`
}

// PluginNodeStatus is what runs on one node.
type PluginNodeStatus struct {
	// Name is the node's name.
	Name string `json:"name"`
	// Phase is where the plugin is in its life on this node.
	// +optional
	Phase PluginPhase `json:"phase,omitempty"`
	// PID is the process, 0 when none runs.
	// +optional
	PID int64 `json:"pid,omitempty"`
	// Restarts counts how often the process was started again.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`
	// Version is what the plugin says of itself.
	// +optional
	Version string `json:"version,omitempty"`
	// LastError says why the process ended, or did not start, the last time.
	// +optional
	LastError string `json:"lastError,omitempty"`
	// StartedAt is when the process was started.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
}

// PluginList is a list of plugins.
type PluginList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items are the plugins.
	Items []Plugin `json:"items"`
}

// PluginLogOptions are the query parameters of a plugin's log subresource.
type PluginLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	// TailLines is how many lines from the end are shown. All that are kept when unset.
	// +optional
	TailLines *int64 `json:"tailLines,omitempty"`
	// Follow keeps the stream open for lines that are still to come.
	// +optional
	Follow bool `json:"follow,omitempty"`
}

// PluginRestart is the body of a plugin's restart subresource.
type PluginRestart struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
}
