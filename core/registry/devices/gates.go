package devices

import "keelson.dev/keelson/core/registry/resource"

// The alpha features of the group's kinds in Kubernetes 1.37, with their fields.
var (
	// claimGates are those in a claim's spec.
	claimGates = []resource.Gate{{Feature: "DRADerivedAttributes", Fields: []string{
		"devices.requests[].exactly.derivedAttributes", "devices.requests[].firstAvailable[].derivedAttributes"}}}
	sliceGates = []resource.Gate{
		{Feature: "DRAListTypeAttributes", Fields: []string{"spec.devices[].attributes{}.ints", "spec.devices[].attributes{}.bools",
			"spec.devices[].attributes{}.strings", "spec.devices[].attributes{}.versions"}},
		{Feature: "DRANodeAllocatableResources", Fields: []string{"spec.devices[].nodeAllocatableResources"}},
		{Feature: "DRADeviceCompatibilityGroups", Fields: []string{"spec.devices[].consumesCounters[].compatibilityGroups"}},
		{Feature: "DRAPartitionableDevicesType", Fields: []string{"spec.partitionTypeAttribute"}},
		{Feature: "DRAOptionalNodeOperations", Fields: []string{"spec.skipNodeOperations"}},
	}
)
