// Package dns answers DNS queries of the pods on its node: names of the cluster, by
// Kubernetes' DNS specification (version 1.1.0), from memory, and all other names from
// the resolvers of the machine, through a bounded cache.
//
// It listens on addresses of the node itself, on a link of its own (keelson-dns): the
// cluster's DNS address, which pods have in resolv.conf, and 169.254.20.10. So a query
// is not translated, does not leave the node, and fills no connection table. The
// Service kube-system/kube-dns, which the plugin creates, has the address for others to
// find; the service proxy leaves it alone because of its label keelson.dev/node-local.
//
// server.go runs, handler.go decides who answers, zone.go knows the cluster's names,
// records.go makes answers of them, forward.go and cache.go do the rest.
//
// Goroutines: the informers', one server for each address and protocol, one that looks
// after link and Service; all end with Start. The link and its addresses stay. After
// a start, queries wait up to two seconds for all services, endpoints and namespaces to be
// known, as they wait while no process is there; then cluster names get SERVFAIL: a client
// tries again after that, but believes NXDOMAIN.
package dns
