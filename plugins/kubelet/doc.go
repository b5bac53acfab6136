// Package kubelet is the node agent: it turns the pods bound to its node into sandboxes and containers of a CRI runtime, and reports back.
//
// In go the pods of the API (a watch limited to spec.nodeName), the container events of the runtime, and the results of probes. Out go CRI
// calls, files below the data directory (volumes, /etc/hosts, termination logs), pod and node status, events and the node's lease.
//
// Goroutines: one pod worker per pod owns all that is known of that pod and decides by pure functions (computeActions, computeStatus) what to
// do next. A worker never blocks on slow work: volumes, sandboxes, image pulls, container starts, hooks and kills run in goroutines of their
// own, which hand their result back to the worker's mailbox and are waited for when it ends. Beside them run the runtime's event stream with a
// slow relist as a safety net (pleg.go), the node's status and lease (node.go), log rotation and the HTTPS server.
//
// Guarantees: what a container is (name, attempt, hash) is kept in the runtime's labels and annotations, so that a restart of this process or of
// the runtime changes nothing for a running container; a pod is deleted from the API only when its containers are dead and its volumes gone;
// the reported status never goes back from a terminal phase. Static pods and volumes served by CSI are left to later versions.
package kubelet
