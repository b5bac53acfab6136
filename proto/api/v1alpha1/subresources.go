package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// PluginLogOptions are the query parameters of a plugin's log subresource.
type PluginLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	// TailLines is how many lines from the end are shown. All that are kept when unset.
	// +optional
	TailLines *int64 `json:"tailLines,omitempty"`
	// Follow keeps the stream open for lines that are still to come.
	// +optional
	Follow bool `json:"follow,omitempty"`
	// Node is where the plugin runs whose log is meant. The server's own when unset.
	// +optional
	Node string `json:"node,omitempty"`
}

// PluginRestart is the body of a plugin's restart subresource.
type PluginRestart struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Node is where the plugin is restarted. Every node on which it runs when unset.
	// +optional
	Node string `json:"node,omitempty"`
}

// PluginSwap is the body of a plugin's swap subresource.
type PluginSwap struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Again tries the revision of the spec once more that was refused or rolled back.
	// +optional
	Again bool `json:"again,omitempty"`
	// Node is where it is tried again. Every node on which it was refused when unset.
	// +optional
	Node string `json:"node,omitempty"`
}

// PluginComparison is where a plugin's shadow and the active one decide differently.
type PluginComparison struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Active is the revision of the active one.
	// +optional
	Active string `json:"active,omitempty"`
	// Shadow is the revision of the shadow.
	// +optional
	Shadow string `json:"shadow,omitempty"`
	// Since is when counting began.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Same counts decisions in which both agree.
	Same int64 `json:"same"`
	// Different counts decisions in which they do not.
	Different int64 `json:"different"`
	// ActiveOnly counts decisions that the shadow has not made within a minute.
	ActiveOnly int64 `json:"activeOnly"`
	// ShadowOnly counts decisions that the active one has not made within a minute.
	ShadowOnly int64 `json:"shadowOnly"`
	// Dropped counts decisions that were not compared because there were too many at a time.
	// +optional
	Dropped int64 `json:"dropped,omitempty"`
	// Message says what keeps decisions from being compared.
	// +optional
	Message string `json:"message,omitempty"`
	// Differences are the last 1,000 decisions in which they do not agree, newest first.
	// +optional
	// +listType=atomic
	Differences []PluginDifference `json:"differences,omitempty"`
}

// PluginDifference is one decision in which shadow and active one do not agree.
type PluginDifference struct {
	// Key says what was decided about, such as a pod's UID.
	Key string `json:"key"`
	// Subject is the same for people, such as a pod's namespace and name.
	// +optional
	Subject string `json:"subject,omitempty"`
	// Active is what the active one decided.
	// +optional
	Active string `json:"active,omitempty"`
	// ActiveReason is why, for people.
	// +optional
	ActiveReason string `json:"activeReason,omitempty"`
	// Shadow is what the shadow decided.
	// +optional
	Shadow string `json:"shadow,omitempty"`
	// ShadowReason is why, for people.
	// +optional
	ShadowReason string `json:"shadowReason,omitempty"`
	// Time is when the later of both decided.
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
}
