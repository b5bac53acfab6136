package store

import (
	"container/heap"
	"slices"

	"k8s.io/utils/third_party/forked/golang/btree"
)

// version is what memory knows of one record.
type version struct {
	rev     uint64
	create  uint64
	expires int64  // Unix second, 0 for never
	size    uint32 // of the stored value
	sum     uint32 // of the record
	dead    bool   // the object was deleted at rev
}

// entry is a key and its versions, oldest first. Only the last may be current; it is never empty.
type entry struct {
	key      string
	versions []version
}

// latest returns the current version, nil if the object is deleted.
func (e *entry) latest() *version {
	if v := &e.versions[len(e.versions)-1]; !v.dead {
		return v
	}
	return nil
}

// at returns the version that was current at rev, nil if there was none.
func (e *entry) at(rev uint64) *version {
	for i := len(e.versions) - 1; i >= 0; i-- {
		if v := &e.versions[i]; v.rev <= rev {
			if v.dead {
				return nil
			}
			return v
		}
	}
	return nil
}

// garbage is a version that goes when history up to the revision at is compacted.
type garbage struct {
	at  uint64
	rev uint64
	key string
}

// index holds which versions of which keys exist. It does no I/O and no locking.
type index struct {
	tree    *btree.BTree[*entry]
	garbage []garbage // in order of at
	expiry  expiryHeap
	stale   int   // length at which the heap is rid of versions that are not current any more
	bytes   int64 // of the records on disk, estimated from above
}

// deletionBytes is what the deletion of an entry takes on disk, recordBytes what a record does.
const deletionBytes = 32

func recordBytes(key string, size int) int {
	return 64 + len(key) + size + deletionBytes*pieceCount(size)
}

func newIndex() *index {
	return &index{tree: btree.New(32, func(a, b *entry) bool { return a.key < b.key })}
}

func (x *index) get(key string) *entry {
	e, _ := x.tree.Get(&entry{key: key})
	return e
}

// apply notes a record; records come in order of revision.
func (x *index) apply(r *record, sum uint32) {
	v := version{rev: r.rev, create: r.create, expires: r.expires, size: uint32(len(r.value)), sum: sum, dead: r.kind == recordDelete}
	e := x.get(r.key)
	if e == nil {
		e = &entry{key: r.key}
		x.tree.ReplaceOrInsert(e)
	} else if n := len(e.versions); n > 0 && !e.versions[n-1].dead {
		x.garbage = append(x.garbage, garbage{at: r.rev, rev: e.versions[n-1].rev, key: r.key})
	}
	e.versions = append(e.versions, v)
	x.bytes += int64(recordBytes(r.key, len(r.value)))
	if v.dead {
		x.garbage = append(x.garbage, garbage{at: r.rev, rev: r.rev, key: r.key})
	}
	if v.expires != 0 && !v.dead {
		heap.Push(&x.expiry, expiring{at: v.expires, rev: v.rev, key: r.key})
		if len(x.expiry) > max(x.stale, minStale) {
			x.expire()
		}
	}
}

// minStale is the length of the expiry heap below which it is not cleaned.
const minStale = 1024

// expire forgets the ends of versions that are not current any more: an event that is counted up all the time has an end
// an hour ahead each time.
func (x *index) expire() {
	x.expiry = slices.DeleteFunc(x.expiry, func(e expiring) bool {
		cur := x.get(e.key)
		return cur == nil || cur.latest() == nil || cur.latest().rev != e.rev
	})
	heap.Init(&x.expiry)
	x.stale = 2 * len(x.expiry)
}

// drop forgets one version.
func (x *index) drop(key string, rev uint64) {
	e := x.get(key)
	if e == nil {
		return
	}
	e.versions = slices.DeleteFunc(e.versions, func(v version) bool {
		if v.rev == rev {
			x.bytes -= int64(recordBytes(key, int(v.size)))
		}
		return v.rev == rev
	})
	switch n := len(e.versions); {
	case n == 0:
		x.tree.Delete(e)
	case cap(e.versions) > minVersions && n <= cap(e.versions)/4:
		e.versions = append(make([]version, 0, max(2*n, minVersions)), e.versions...)
	}
}

// minVersions is the room for versions that an entry keeps; of more, it gives back what a burst of writes has left.
const minVersions = 4

// find returns a version of a key by its revision.
func (x *index) find(key string, rev uint64) *version {
	e := x.get(key)
	if e == nil {
		return nil
	}
	for i := range e.versions {
		if e.versions[i].rev == rev {
			return &e.versions[i]
		}
	}
	return nil
}

// ascend calls f for the keys with the prefix, from the key start on, until f returns false.
func (x *index) ascend(prefix, start string, f func(*entry) bool) {
	if start < prefix {
		start = prefix
	}
	x.tree.AscendGreaterOrEqual(&entry{key: start}, func(e *entry) bool {
		return len(e.key) >= len(prefix) && e.key[:len(prefix)] == prefix && f(e)
	})
}

// expiring is an object with an end.
type expiring struct {
	at  int64
	rev uint64
	key string
}

type expiryHeap []expiring

func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *expiryHeap) Push(x any) { *h = append(*h, x.(expiring)) }

// Pop implements heap.Interface.
func (h *expiryHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
