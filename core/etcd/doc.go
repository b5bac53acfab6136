// Package etcd keeps the cluster's objects in an etcd v3 that runs elsewhere, by k8s.io/apiserver's own etcd backend and,
// as in upstream's server, its watch cache: clients' lists and watches are answered from memory, and an etcd
// has one watch for each resource.
//
// A Datastore also reads and writes all objects at once, for backups (Dump) and to move a cluster (Load).
//
// Goroutines: those of the etcd client and, with the first resource, of the compactor and the caches; the owners of the
// resources' storages end them.
package etcd
