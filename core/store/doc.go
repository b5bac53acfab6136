// Package store keeps the cluster's objects: it is k8s.io/apiserver's storage.Interface on Badger, for one server.
//
// A DB is one data directory. Each resource gets a storage.Interface from DB.NewStorage, which fits
// generic.StorageDecorator; there is no Cacher on top, so a write is seen by the next read, and a watch event is
// handed out by the writer itself.
//
// What it guarantees:
//   - A write that was acknowledged has been synced to disk. It is never lost, and its revision is never given again.
//   - One counter gives the revisions of all resources. Nobody sees a revision before it is on disk.
//   - History is kept for Options.CompactionWindow: watches resume, lists at a past revision and continue tokens
//     work. What is older gets "410 Expired", worded as with etcd.
//   - Events reach each watcher in revision order and without a gap. A watcher that does not read is cut off; the
//     writer never waits for it.
//   - A directory that lost acknowledged data, or holds damaged records, is not served: Open returns ErrDamaged.
//
// In memory are an index of keys and revisions (no values) and a bounded cache of decoded objects. Objects that lists
// return, and those in watch events, share memory with that cache: a list's items may be changed at their top level
// only, watch events are wrapped in a runtime.CacheableObject that copies. Get and the update functions own what they get.
//
// Goroutines: the writer (all commits, group by group), the maintainer (expiry, compaction, bookmarks), one for each
// open watch, and Badger's own. Close ends and awaits all of them.
//
// The layout on disk is described in docs/store.md.
package store
