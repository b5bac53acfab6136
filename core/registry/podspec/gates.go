package podspec

import (
	"keelson.dev/keelson/core/registry/resource"
)

// Gates are the alpha features of pods in Kubernetes 1.37, with their fields in a pod's spec.
var Gates = []resource.Gate{
	{Feature: "AtomicWriteVolumeUserFields", Fields: []string{
		"volumes[].secret.defaultUser", "volumes[].secret.items[].user",
		"volumes[].configMap.defaultUser", "volumes[].configMap.items[].user",
		"volumes[].downwardAPI.defaultUser", "volumes[].downwardAPI.items[].user",
		"volumes[].projected.defaultUser",
		"volumes[].projected.sources[].secret.items[].user", "volumes[].projected.sources[].configMap.items[].user",
		"volumes[].projected.sources[].downwardAPI.items[].user", "volumes[].projected.sources[].serviceAccountToken.user",
		"volumes[].projected.sources[].clusterTrustBundle.user", "volumes[].projected.sources[].podCertificate.user",
	}},
	{Feature: "EmptyDirVolumeMode", Fields: []string{"volumes[].emptyDir.mode"}},
	{Feature: "ContainerStopSignals", Fields: ofContainers("lifecycle?.stopSignal")},
	{Feature: "VolumeBindMountOptions", Fields: ofContainers("volumeMounts[].bindMountOptions")},
	{Feature: "H2CContainerProbe", Fields: ofContainers("livenessProbe.httpGet.protocol", "readinessProbe.httpGet.protocol", "startupProbe.httpGet.protocol",
		"lifecycle.postStart.httpGet.protocol", "lifecycle.preStop.httpGet.protocol")},
	{Feature: "GRPCContainerProbeTLS", Fields: ofContainers("livenessProbe.grpc.mode", "readinessProbe.grpc.mode", "startupProbe.grpc.mode")},
	{Feature: "GenericWorkload", Fields: []string{"schedulingGroup"}},
	{Feature: "EvictionRequestAPI", Fields: []string{"evictionResponders"}},
}

// TemplateGates are those of an object with a pod template in its spec.
var TemplateGates = resource.Under("spec.template.spec", Gates)

// ofContainers gives the fields in each of a pod's lists of containers.
func ofContainers(fields ...string) (all []string) {
	for _, list := range []string{"containers[].", "initContainers[].", "ephemeralContainers[]."} {
		for _, f := range fields {
			all = append(all, list+f)
		}
	}
	return all
}
