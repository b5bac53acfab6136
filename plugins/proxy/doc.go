// Package proxy makes Services work on a node: it programs nftables, through netlink,
// so that connections to cluster IPs, node ports, load balancer and external IPs reach
// ready endpoints.
//
// What Kubernetes says flows one way: informers on Services and EndpointSlices mark a
// service dirty; the one sync loop computes what the service should have in the kernel
// (model.go), compares it with what it has (state.go) and sends the difference in one
// transaction (table.go). So a change costs what the service costs, not what the table
// has, and the rules that every packet passes never grow: verdict maps lead from
// address, protocol and port to the service's chain.
//
// The table outlives the process. A new process replaces it in one transaction when it
// has seen all services and endpoints, and takes over the clients' session affinity;
// until then the old rules serve. Established connections never notice, for they are in
// the connection table of the kernel, not in the rules.
//
// Goroutines: the informers', the sync loop, and one per health check port. All end with
// Start. A transaction that fails is followed by a full replacement, with back-off.
package proxy
