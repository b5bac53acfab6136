// Package runtime is the plugin that runs a node's containers: a CRI v1 server
// (k8s.io/cri-api) that needs no daemon.
//
// The parts: internal/images stores images and unpacks each layer once;
// internal/rootfs mounts them as overlays; internal/netns makes a sandbox's
// namespaces, pinned to files, so that a sandbox needs no process; internal/oci
// writes the OCI specification; internal/conmon starts conmon, which has an OCI
// runtime (crun, else runc) create the container and stays with it;
// internal/cgroup reads and clears control groups. This package holds the state of
// sandboxes and containers, and answers CRI.
//
// State: every sandbox and container has a record in DataDir, written by rename
// before and after each step; what must not outlive a boot is in RunDir. Containers
// and their conmons belong to nobody: killing this plugin touches none. At start all
// records are read, exits that happened meanwhile are taken from conmon's exit
// files, half-made containers are removed, and after a reboot all containers count
// as ended.
//
// Goroutines, all ended when Start returns: the gRPC and the streaming server, the
// spawner's thread, one that reads exits by inotify, and one for each live container
// that waits (pidfd, no polling) for the death of its conmon.
//
// Locks: a sandbox's life lock (shared by creations in it, exclusive for its stop),
// then a container's op lock (create, start, end, remove), then mu of either, which
// guards the fields. No I/O but the record's write happens under mu.
package runtime
