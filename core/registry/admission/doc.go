// Package admission holds the admission plugins that upstream links into its
// API server beside the generic ones, one file each. NamespaceLifecycle,
// policies and webhooks come from k8s.io/apiserver, and so does the core of
// ResourceQuota.
//
// What each request on pods needs is read through informers, which the server
// that hands in a client and a factory starts. What is needed seldom (storage
// classes, runtime classes, ingress classes) is asked of the API when it is, so
// it is never stale and costs nothing at rest. No goroutines run here, but for
// those of the quota evaluator, which begin with the first namespace that has a
// quota and end with the server.
package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
	genericinitializer "k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/kubernetes"
)

// Names of the plugins, as in Kubernetes.
const (
	AlwaysAdmitName                          = "AlwaysAdmit"
	AlwaysDenyName                           = "AlwaysDeny"
	AlwaysPullImagesName                     = "AlwaysPullImages"
	CertificateApprovalName                  = "CertificateApproval"
	CertificateSigningName                   = "CertificateSigning"
	CertificateSubjectRestrictionName        = "CertificateSubjectRestriction"
	ClusterTrustBundleAttestName             = "ClusterTrustBundleAttest"
	DefaultIngressClassName                  = "DefaultIngressClass"
	DefaultStorageClassName                  = "DefaultStorageClass"
	DefaultTolerationSecondsName             = "DefaultTolerationSeconds"
	DenyServiceExternalIPsName               = "DenyServiceExternalIPs"
	EventRateLimitName                       = "EventRateLimit"
	ExtendedResourceTolerationName           = "ExtendedResourceToleration"
	LimitPodHardAntiAffinityTopologyName     = "LimitPodHardAntiAffinityTopology"
	LimitRangerName                          = "LimitRanger"
	NamespaceAutoProvisionName               = "NamespaceAutoProvision"
	NamespaceExistsName                      = "NamespaceExists"
	NodeDeclaredFeatureValidatorName         = "NodeDeclaredFeatureValidator"
	OwnerReferencesPermissionEnforcementName = "OwnerReferencesPermissionEnforcement"
	PersistentVolumeClaimResizeName          = "PersistentVolumeClaimResize"
	PodNodeSelectorName                      = "PodNodeSelector"
	PodResizeValidatorName                   = "PodResizeValidator"
	PodTolerationRestrictionName             = "PodTolerationRestriction"
	PodTopologyLabelsName                    = "PodTopologyLabels"
	PriorityName                             = "Priority"
	RuntimeClassName                         = "RuntimeClass"
	ServiceAccountName                       = "ServiceAccount"
	StorageObjectInUseProtectionName         = "StorageObjectInUseProtection"
	TaintNodesByConditionName                = "TaintNodesByCondition"
)

// factories make the plugins of this package.
var factories = map[string]admission.Factory{
	AlwaysAdmitName:                          newAlwaysAdmit,
	AlwaysDenyName:                           newAlwaysDeny,
	AlwaysPullImagesName:                     newAlwaysPull,
	CertificateApprovalName:                  newApproval,
	CertificateSigningName:                   newSigning,
	CertificateSubjectRestrictionName:        newSubjectRestriction,
	ClusterTrustBundleAttestName:             newAttest,
	DefaultIngressClassName:                  newDefaultIngressClass,
	DefaultStorageClassName:                  newDefaultStorageClass,
	DefaultTolerationSecondsName:             newTolerations,
	DenyServiceExternalIPsName:               newExternalIPs,
	EventRateLimitName:                       newEventRateLimit,
	ExtendedResourceTolerationName:           newExtendedResources,
	LimitPodHardAntiAffinityTopologyName:     newAntiAffinity,
	LimitRangerName:                          newLimitRanger,
	NamespaceAutoProvisionName:               newAutoProvision,
	NamespaceExistsName:                      newNamespaceExists,
	NodeDeclaredFeatureValidatorName:         newDeclaredFeatures,
	OwnerReferencesPermissionEnforcementName: newOwners,
	PersistentVolumeClaimResizeName:          newClaimResize,
	PodNodeSelectorName:                      newNodeSelector,
	PodResizeValidatorName:                   newPodResize,
	PodTolerationRestrictionName:             newTolerationRestriction,
	PodTopologyLabelsName:                    newTopologyLabels,
	PriorityName:                             newPriority,
	RuntimeClassName:                         newRuntimeClass,
	ServiceAccountName:                       newServiceAccount,
	StorageObjectInUseProtectionName:         newInUse,
	TaintNodesByConditionName:                newNodeTaint,
}

// Register adds the plugins of this package to a registry of plugins.
func Register(plugins *admission.Plugins) {
	for name, factory := range factories {
		plugins.Register(name, factory)
	}
	registerQuota(plugins)
}

// asker is the part of a plugin that asks the API.
type asker struct {
	*admission.Handler
	name   string
	client kubernetes.Interface
}

var _ genericinitializer.WantsExternalKubeClientSet = (*asker)(nil)

func newAsker(name string, ops ...admission.Operation) asker {
	return asker{Handler: admission.NewHandler(ops...), name: name}
}

// SetExternalKubeClientSet takes the client.
func (k *asker) SetExternalKubeClientSet(c kubernetes.Interface) { k.client = c }

// ValidateInitialization checks that the client has been handed in.
func (k *asker) ValidateInitialization() error {
	if k.client == nil {
		return fmt.Errorf("admission plugin %s needs a client", k.name)
	}
	return nil
}

// containersOf are the lists of containers of a pod that have resources.
func containersOf(pod *corev1.Pod) [][]corev1.Container {
	return [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers}
}
