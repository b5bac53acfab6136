package store

import (
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of Options.
const (
	// DefaultCompactionWindow is Kubernetes' own: clients expect a continue token to live for about five minutes.
	DefaultCompactionWindow = 5 * time.Minute
	// DefaultBookmarkInterval is that of upstream's watch cache.
	DefaultBookmarkInterval = time.Minute
	// MinCacheBytes and MaxCacheBytes are the ends of what DefaultCacheBytes gives.
	MinCacheBytes = 16 << 20
	MaxCacheBytes = 128 << 20
	// DefaultWatchQueue is the number of events that may wait for one watcher before it is cut off.
	DefaultWatchQueue = 4096
	// DefaultBatchInterval is how much of the batched updates a crash may cost. A node
	// renews its lease each 10 s: 6 of them are one write.
	DefaultBatchInterval = time.Minute
	// DefaultMinFreeBytes is the disk space below which writes are refused. Badger maps its files into memory, and a
	// full disk under a mapping kills the process (SIGBUS); its next two files need about this much.
	DefaultMinFreeBytes = 64 << 20
)

// DefaultBatched are the heartbeats of nodes. Nothing but the next heartbeat
// depends on one: it says that the node was there then.
var DefaultBatched = []string{"/registry/leases/kube-node-lease/"}

// Options configure a DB. All but Dir may be left zero.
type Options struct {
	// Dir is the data directory; it is made, mode 0700, when it is missing.
	Dir string
	// Log gets the store's own lines and Badger's; nil means none.
	Log *slog.Logger
	// CompactionWindow is how long superseded versions of objects are kept.
	CompactionWindow time.Duration
	// BookmarkInterval is the time between bookmarks of a watch that asked for them.
	BookmarkInterval time.Duration
	// CacheBytes bounds the cache of decoded objects, counted in encoded bytes (decoded
	// they take 2 to 4 times as much); less than zero turns it off. Default:
	// DefaultCacheBytes of this machine's memory.
	CacheBytes int64
	// WatchQueue is the number of events that may wait for one watcher.
	WatchQueue int
	// Batched are prefixes of keys whose updates are answered before they are on
	// disk. After a crash, those since the last batch are as if they had not been.
	// Default: DefaultBatched.
	Batched []string
	// BatchInterval is how often batched updates are put on disk; less than zero: each
	// at once. Default: DefaultBatchInterval.
	BatchInterval time.Duration
	// MinFreeBytes is the free disk space below which writes are refused; less than zero turns the check off.
	MinFreeBytes int64

	memTable int64 // size of Badger's memtables; tests take small ones, to see many flushes and compactions
}

// memTableBytes is the size of Badger's memtables. A transaction may have 15% of it,
// and must hold an object of 2 MiB.
const memTableBytes = 16 << 20

// DefaultCacheBytes is a 64th of a machine's memory, within MinCacheBytes and
// MaxCacheBytes: a list over more objects than the cache holds decodes the rest each
// time, which for 10,000 pods (57 MB) took a hundred times as long. What is not stored
// takes no cache, so a small cluster pays nothing for the bound.
func DefaultCacheBytes(memory int64) int64 {
	return min(max(memory/64, MinCacheBytes), MaxCacheBytes)
}

// memoryBytes is this machine's memory, 0 if it cannot be told.
func memoryBytes() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// groupBytes bounds a group's size; it leaves room in a Badger transaction for the
// entries' overhead.
func (o *Options) groupBytes() int { return int(maxValueBytes * o.memTable / memTableBytes) }

func (o *Options) setDefaults() error {
	if o.Dir == "" {
		return errors.New("store: Options.Dir is empty")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CompactionWindow <= 0 {
		o.CompactionWindow = DefaultCompactionWindow
	}
	if o.BookmarkInterval <= 0 {
		o.BookmarkInterval = DefaultBookmarkInterval
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes(memoryBytes())
	}
	if o.WatchQueue <= 0 {
		o.WatchQueue = DefaultWatchQueue
	}
	if o.Batched == nil {
		o.Batched = DefaultBatched
	}
	if o.BatchInterval == 0 {
		o.BatchInterval = DefaultBatchInterval
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = DefaultMinFreeBytes
	}
	if o.memTable == 0 {
		o.memTable = memTableBytes
	}
	return nil
}
