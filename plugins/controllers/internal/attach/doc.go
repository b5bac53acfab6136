// Package attach has volumes of CSI drivers attached to the nodes whose pods use them,
// and detached when none does any more.
//
// In: pods, claims, volumes and nodes from shared informers; VolumeAttachments and
// CSIDrivers from informers that start with the first bound CSI volume, or if there are
// attachments when the controller starts. Out: VolumeAttachments, which the attacher of
// the driver acts on, volumesAttached in the status of nodes, and events on pods.
//
// A sync looks at one volume: on which nodes it is wanted, and which attachments there
// are. So nothing is kept that a restart could lose, except since when a volume waits
// to be unmounted. An attachment's name is that of volume and node; it is made once.
// It is deleted when no pod of the node needs it and the node does not say that the
// volume is in use. First the volume leaves the node's volumesAttached, and the answer
// to that write is asked once more whether the node has begun to use it. Of a node that
// is not ready it is taken after six minutes, of one that is out of service at once.
//
// A volume that only one node may have waits, with an event, until the other node's
// attachment is gone. Volumes that were once built in and have a driver now are not
// translated; they have to be CSI volumes.
package attach
