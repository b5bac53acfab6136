package v1alpha1

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	// Rules are the RBAC rules that the administrator accepts for a program by path. What the program describes
	// beyond them keeps it from starting. A built-in plugin needs none.
	// +optional
	// +listType=atomic
	Rules []rbacv1.PolicyRule `json:"rules,omitempty"`
	// Resources bound what each process of the plugin uses.
	// +optional
	Resources *PluginResources `json:"resources,omitempty"`
	// Swap says how a changed plugin takes the place of the one that runs.
	// +optional
	Swap *PluginSwapPolicy `json:"swap,omitempty"`
	// Shadow is a second program that decides beside the active one, without effect.
	// +optional
	Shadow *PluginShadow `json:"shadow,omitempty"`
}

// PluginResources bound what a process of a plugin uses.
type PluginResources struct {
	// Limits are those of the process's cgroup.
	// +optional
	Limits *PluginLimits `json:"limits,omitempty"`
}

// PluginLimits are the limits of a plugin process's cgroup. What is not set is not limited.
type PluginLimits struct {
	// Memory in bytes, at least 8Mi. A process that needs more is killed.
	// +optional
	Memory *resource.Quantity `json:"memory,omitempty"`
	// CPU in cores, at least 10m.
	// +optional
	CPU *resource.Quantity `json:"cpu,omitempty"`
	// Pids is how many processes and threads there may be, at least 16.
	// +optional
	Pids *int64 `json:"pids,omitempty"`
}

// PluginSwapPolicy says how a changed plugin takes the place of the one that runs.
type PluginSwapPolicy struct {
	// WatchSeconds is how long the process that was replaced is kept, to come back if the new one is bad: 0 to 86400.
	// 0 keeps it not at all. Defaults to 30.
	// +optional
	WatchSeconds *int32 `json:"watchSeconds,omitempty"`
	// Restart ends the old process before the new one is started: for a plugin that cannot run twice on a machine.
	// +optional
	Restart bool `json:"restart,omitempty"`
}

// PluginShadow is a second program of a plugin that decides beside the active one, without effect.
type PluginShadow struct {
	// Source is where the executable comes from.
	// +optional
	Source PluginSource `json:"source,omitempty"`
	// Args are handed to the executable.
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`
	// Config is its configuration.
	// +optional
	Config *runtime.RawExtension `json:"config,omitempty"`
}

// PluginSource is where a plugin's executable comes from: linked into the
// kernel's binary, or a file on the node.
type PluginSource struct {
	// BuiltIn is true for a plugin that is linked into the kernel's own binary.
	// +optional
	BuiltIn bool `json:"builtIn,omitempty"`
	// Program names a built-in program that runs under any plugin's name and kind: exec, which wraps a program of
	// the node. Empty means the built-in plugin of the object's own name.
	// +optional
	Program string `json:"program,omitempty"`
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
	// InProcess says that it runs within the kernel's process, whose number pid is.
	// +optional
	InProcess bool `json:"inProcess,omitempty"`
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
	// Revision is the one that is active: ten hexadecimal digits of a checksum over what decides what runs.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Candidate is the process that is to take the active one's place, or that has done so and is still watched.
	// +optional
	Candidate *PluginCandidateStatus `json:"candidate,omitempty"`
	// Shadow is the process that decides beside the active one.
	// +optional
	Shadow *PluginShadowStatus `json:"shadow,omitempty"`
	// History has the last ten revisions, newest first.
	// +optional
	// +listType=atomic
	History []PluginRevision `json:"history,omitempty"`
	// Conditions say more: Ready, Progressing, Accepted, RolledBack, ShadowReady.
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

// PluginCandidatePhase is how far a swap is.
// +enum
type PluginCandidatePhase string

const (
	// PluginCandidateStarting is a candidate that is launched and configured, and gets ready to take over.
	PluginCandidateStarting PluginCandidatePhase = "Starting"
	// PluginCandidateStandby is a candidate that could take over at once.
	PluginCandidateStandby PluginCandidatePhase = "Standby"
	// PluginCandidateWatched is a process that has taken over, while the one before it is kept.
	PluginCandidateWatched PluginCandidatePhase = "Watched"
)

// PluginCandidateStatus is a swap under way.
type PluginCandidateStatus struct {
	// Revision of the candidate.
	Revision string `json:"revision"`
	// Phase is how far the swap is.
	Phase PluginCandidatePhase `json:"phase"`
	// PID is its process, 0 when none runs yet.
	// +optional
	PID int64 `json:"pid,omitempty"`
	// Since is when the phase began.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Message is what it waits for.
	// +optional
	Message string `json:"message,omitempty"`
}

// PluginShadowStatus is the process that decides beside the active one.
type PluginShadowStatus struct {
	// Revision of the shadow.
	Revision string `json:"revision"`
	// Phase is where it is in its life.
	// +optional
	Phase PluginPhase `json:"phase,omitempty"`
	// PID is its process, 0 when none runs.
	// +optional
	PID int64 `json:"pid,omitempty"`
	// Message says why it does not run, or what it waits for.
	// +optional
	Message string `json:"message,omitempty"`
	// Restarts counts how often it was started again since it was asked for.
	// +optional
	Restarts int32 `json:"restarts,omitempty"`
	// Version is what it says of itself.
	// +optional
	Version string `json:"version,omitempty"`
}

// PluginOutcome is what became of a revision.
// +enum
type PluginOutcome string

const (
	// PluginOutcomeActive is the revision that is active.
	PluginOutcomeActive PluginOutcome = "Active"
	// PluginOutcomeReplaced is a revision in whose place another one came.
	PluginOutcomeReplaced PluginOutcome = "Replaced"
	// PluginOutcomeRolledBack is a revision that took over and gave way to the one before it.
	PluginOutcomeRolledBack PluginOutcome = "RolledBack"
	// PluginOutcomeRefused is a revision that never took over.
	PluginOutcomeRefused PluginOutcome = "Refused"
)

// PluginRevision is one revision that ran, or should have.
type PluginRevision struct {
	// Revision is its name.
	Revision string `json:"revision"`
	// Generation of the object that asked for it.
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Version is what the program said of itself.
	// +optional
	Version string `json:"version,omitempty"`
	// Outcome is what became of it.
	Outcome PluginOutcome `json:"outcome"`
	// Message says why it was rolled back or refused.
	// +optional
	Message string `json:"message,omitempty"`
	// StartTime is when it took over; of a refused one, when it was tried.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`
	// EndTime is when it gave way.
	// +optional
	EndTime *metav1.Time `json:"endTime,omitempty"`
	// GapMilliseconds is how long nobody was active when it took over. Unset where it replaced nobody.
	// +optional
	GapMilliseconds *int64 `json:"gapMilliseconds,omitempty"`
	// Spec is what the revision is made of.
	// +optional
	Spec *PluginRevisionSpec `json:"spec,omitempty"`
}

// PluginRevisionSpec is what decides what runs; the fields are those of the plugin's spec.
type PluginRevisionSpec struct {
	// Kind names the contract.
	Kind string `json:"kind"`
	// Source is where the executable comes from.
	// +optional
	Source PluginSource `json:"source,omitempty"`
	// Args are handed to the executable.
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`
	// Config is the plugin's own configuration.
	// +optional
	Config *runtime.RawExtension `json:"config,omitempty"`
	// Rules are the accepted RBAC rules.
	// +optional
	// +listType=atomic
	Rules []rbacv1.PolicyRule `json:"rules,omitempty"`
	// Resources bound what each process uses.
	// +optional
	Resources *PluginResources `json:"resources,omitempty"`
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
	// InProcess says that it runs within the kernel's process, whose number pid is.
	// +optional
	InProcess bool `json:"inProcess,omitempty"`
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
	// Revision is the one that is active on this node.
	// +optional
	Revision string `json:"revision,omitempty"`
	// Candidate is a swap under way on this node.
	// +optional
	Candidate *PluginCandidateStatus `json:"candidate,omitempty"`
	// Message is what the plugin says of its state on this node, or why a swap did not come about.
	// +optional
	Message string `json:"message,omitempty"`
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
