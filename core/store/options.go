package store

import (
	"errors"
	"log/slog"
	"time"
)

// Defaults of Options.
const (
	// DefaultCompactionWindow is Kubernetes' own: clients expect a continue token to live for about five minutes.
	DefaultCompactionWindow = 5 * time.Minute
	// DefaultBookmarkInterval is that of upstream's watch cache.
	DefaultBookmarkInterval = time.Minute
	// DefaultCacheBytes bounds the cache of decoded objects, counted in encoded bytes (decoded they take 2 to 4 times as much).
	DefaultCacheBytes = 16 << 20
	// DefaultWatchQueue is the number of events that may wait for one watcher before it is cut off.
	DefaultWatchQueue = 4096
	// DefaultMinFreeBytes is the disk space below which writes are refused. Badger maps its files into memory, and a
	// full disk under a mapping kills the process (SIGBUS); its next two files need about this much.
	DefaultMinFreeBytes = 64 << 20
)

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
	// CacheBytes bounds the cache of decoded objects; less than zero turns it off.
	CacheBytes int64
	// WatchQueue is the number of events that may wait for one watcher.
	WatchQueue int
	// MinFreeBytes is the free disk space below which writes are refused; less than zero turns the check off.
	MinFreeBytes int64
}

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
		o.CacheBytes = DefaultCacheBytes
	}
	if o.WatchQueue <= 0 {
		o.WatchQueue = DefaultWatchQueue
	}
	if o.MinFreeBytes == 0 {
		o.MinFreeBytes = DefaultMinFreeBytes
	}
	return nil
}
