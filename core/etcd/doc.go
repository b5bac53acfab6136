// Package etcd keeps the cluster's objects in an etcd v3 that runs elsewhere, by k8s.io/apiserver's own etcd backend and,
// as in upstream's server, its watch cache: clients' lists and watches are answered from memory, and an etcd
// has one watch for each resource, all on one connection.
//
// A Datastore also reads and writes all objects at once, for backups (Dump) and to move a cluster (Load).
//
// While the etcd is gone requests get 503 after some seconds, and it is tried again at least every two. One that is there and
// does not answer gets 504 for them a little before their own end.
//
// Goroutines: those of the etcd client and, from the first resource on, of the compactor, which Close ends; those of the caches
// are ended by the owners of the resources' storages.
package etcd
