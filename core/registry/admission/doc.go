// Package admission holds the admission plugins that upstream links into its
// API server beside the generic ones: ServiceAccount, Priority and
// DefaultTolerationSeconds. NamespaceLifecycle and the rest come from
// k8s.io/apiserver.
//
// They read the API through informers, which the server that hands them a
// client and a factory starts. No goroutines run here.
package admission

import "k8s.io/apiserver/pkg/admission"

// Names of the plugins, as in Kubernetes.
const (
	ServiceAccountName           = "ServiceAccount"
	PriorityName                 = "Priority"
	DefaultTolerationSecondsName = "DefaultTolerationSeconds"
)

// Names are the plugins of this package in the order in which they should run.
var Names = []string{PriorityName, ServiceAccountName, DefaultTolerationSecondsName}

// Register adds the plugins of this package to a registry of plugins.
func Register(plugins *admission.Plugins) {
	plugins.Register(ServiceAccountName, newServiceAccount)
	plugins.Register(PriorityName, newPriority)
	plugins.Register(DefaultTolerationSecondsName, newTolerations)
}
