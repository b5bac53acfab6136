// Package runtimev1 is the contract of a node's container runtime.
//
// A plugin of kind "runtime" serves, on one Unix socket that the kernel names:
//
//   - CRI's runtime.v1.RuntimeService and runtime.v1.ImageService as they are
//     published in k8s.io/cri-api. The kubelet plugin calls them; crictl and
//     critest can be pointed at the socket.
//   - ImageImportService of this package, which `keelson image import` calls.
//     CRI knows no way to bring an image without a registry.
//
// Order of calls: images first (PullImage or Import), then RunPodSandbox,
// CreateContainer, StartContainer; StopContainer, RemoveContainer,
// StopPodSandbox, RemovePodSandbox. Every stop and remove may be repeated, and
// succeeds for what is gone already. RunPodSandbox calls Setup of the network
// contract, StopPodSandbox calls Teardown; a failed RunPodSandbox leaves nothing.
//
// A runtime's containers outlive the plugin process. After a restart the plugin
// answers for all of them as before, and reports exits that it missed.
//
// GetContainerEvents reports created, started, stopped and deleted for sandboxes
// and containers. A subscriber that does not keep up gets its stream closed, and
// lists anew; nothing is dropped silently.
//
// The suite that each implementation passes is in package runtimetest.
package runtimev1
