// Package storagev1 says how a plugin of kind storage is spoken to: by the Container Storage
// Interface, CSI v1, as its specification has it
// (https://github.com/container-storage-interface/spec, whose Go module is the contract:
// package lib/go/csi). No message of ours is added. Any CSI driver is a storage plugin when
// it speaks the base contract too; any tool for CSI (csi-sanity, csc) can be pointed at it.
//
// # Who calls whom, and where
//
// The plugin serves on /run/keelson/storage.sock (mode 0600, plain gRPC: whoever can open it
// is root; ConfigureRequest.listen names it): the services csi.v1.Identity, csi.v1.Node, and
// csi.v1.Controller if it makes volumes. One storage plugin is active on a node at this
// socket; further drivers run as pods and register with the kubelet, as everywhere.
// Controller is called by who makes and attaches volumes, Node by the node's kubelet; both
// call Identity first. Who calls names storage in its requires and finds the socket in its
// endpoints.
//
// # The order of calls
//
//	GetPluginInfo, GetPluginCapabilities, Probe
//	CreateVolume -> ControllerPublishVolume -> NodeStageVolume -> NodePublishVolume
//	DeleteVolume <- ControllerUnpublishVolume <- NodeUnstageVolume <- NodeUnpublishVolume
//
// Steps that the plugin does not list in its capabilities are left out and answered with
// UNIMPLEMENTED. Probe may answer ready=false for as long as the plugin starts; the base
// contract's Health says the same.
//
// # What may be repeated
//
// Every call, also after a crash of either side, with the same arguments: it answers as the
// first time. CreateVolume by the same name gives the same volume; DeleteVolume, and the
// calls back down, of what is not there are no error. Calls for one volume the caller
// serialises as far as it can; a plugin answers ABORTED to one that meets another.
//
// # What a failure means
//
//   - INVALID_ARGUMENT: a required field is missing or makes no sense. NOT_FOUND: no such
//     volume. ALREADY_EXISTS: the name is taken by a volume of other properties, or it is
//     published at the path in another way. OUT_OF_RANGE: no such size.
//     RESOURCE_EXHAUSTED: no room. Repeating helps against none of them by itself.
//   - ABORTED, UNAVAILABLE, DEADLINE_EXCEEDED: not now, or not known whether: repeat with
//     back-off until it is known. What a failed CreateVolume may have left, the same call
//     or DeleteVolume finds.
//
// # Versions
//
// CSI's own: v1 only ever gains. A plugin is found by its capabilities, not by a number. The
// base contract's version is negotiated apart.
//
// Package storagetest is the suite that every storage plugin passes, for the parts that
// Keelson relies on; csi-sanity has all of CSI.
package storagev1
