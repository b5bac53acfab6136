package core

import (
	"slices"

	"keelson.dev/keelson/core/registry/podspec"
	"keelson.dev/keelson/core/registry/resource"
)

// The alpha features of the group's kinds in Kubernetes 1.37, with their fields.
var (
	podGates = slices.Concat(resource.Under("spec", podspec.Gates), []resource.Gate{
		{Feature: "ContainerStopSignals", Fields: []string{"status.containerStatuses[].stopSignal", "status.initContainerStatuses[].stopSignal",
			"status.ephemeralContainerStatuses[].stopSignal"}},
		{Feature: "DRANodeAllocatableResources", Fields: []string{"status.nodeAllocatableResourceClaimStatuses"}},
		{Feature: "CSIVolumeHealth", Fields: []string{"status.volumeHealth"}},
	})
	claimGates = []resource.Gate{
		{Feature: "CrossNamespaceVolumeDataSource", Fields: []string{"spec.dataSourceRef!.namespace"}},
		{Feature: "CSIVolumeHealth", Fields: []string{"status.healthStatus"}},
	}
	nodeGates = []resource.Gate{
		{Feature: "DynamicKubeletConfig", Fields: []string{"spec.configSource"}}, // which is gone for good
		{Feature: "InPlacePodVerticalScalingSchedulerPreemption", Fields: []string{"spec.podPreemptionPolicy"}},
	}
)
