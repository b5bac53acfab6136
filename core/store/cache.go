package store

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	kruntime "k8s.io/apimachinery/pkg/runtime"
)

const (
	// sweepInterval is how often the cache is looked through for what nobody reads.
	sweepInterval = 10 * time.Second
	// keepWritten is for how many sweeps an object stays that was written and not read since: watchers have what they
	// needed of it at once, and of most objects of a large cluster nobody asks again for hours.
	keepWritten = 2
	// keepRead is for how many sweeps an object stays after it was read (5 minutes): who reads it each minute, or lists
	// all, finds it decoded.
	keepRead = 30
	// sweptMuch is the size, in encoded bytes, of swept objects from which on a collection is worth its while.
	sweptMuch = 4 << 20
)

// objectCache keeps decoded objects by revision. An object in it is never changed. What falls out of it is decoded
// again when it is needed, so it evicts whatever comes to hand. Decoded objects take several times what they take on
// disk, so those that nobody reads leave after a while.
type objectCache struct {
	limit int64
	// sweeps is the number of sweeps so far: the cache's clock.
	sweeps atomic.Uint32

	mu    sync.RWMutex // guards items and bytes
	items map[cacheKey]*cached
	bytes int64
	swept time.Time // last sweep; only the maintainer uses it
}

// cacheKey names an object as one resource's storage decodes it.
type cacheKey struct {
	s   *Storage
	rev uint64
}

type cached struct {
	obj  kruntime.Object
	size int64
	// until is the sweep with which the object leaves.
	until atomic.Uint32
}

// cachedOverhead is about what an entry takes besides its object.
const cachedOverhead = 128

func newObjectCache(limit int64) *objectCache {
	return &objectCache{limit: limit, items: map[cacheKey]*cached{}}
}

func (c *objectCache) get(s *Storage, rev uint64) kruntime.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	item := c.items[cacheKey{s, rev}]
	if item == nil {
		return nil
	}
	item.keep(c.sweeps.Load() + keepRead)
	return item.obj
}

// keep lets the object stay until a later sweep. It writes only when that is news, so that readers do not contend.
func (i *cached) keep(until uint32) {
	if i.until.Load() < until {
		i.until.Store(until)
	}
}

// add keeps obj, which nobody may change any more; size is that of its encoded form. It is for objects that were read.
func (c *objectCache) add(s *Storage, rev uint64, obj kruntime.Object, size int) {
	c.addFor(s, rev, obj, size, keepRead)
}

// addWritten is add for objects that were just written.
func (c *objectCache) addWritten(s *Storage, rev uint64, obj kruntime.Object, size int) {
	c.addFor(s, rev, obj, size, keepWritten)
}

func (c *objectCache) addFor(s *Storage, rev uint64, obj kruntime.Object, size int, sweeps uint32) {
	if c.limit <= 0 {
		return
	}
	item := &cached{obj: obj, size: int64(size) + cachedOverhead}
	if item.size > c.limit/8 {
		return
	}
	item.until.Store(c.sweeps.Load() + sweeps)
	c.mu.Lock()
	defer c.mu.Unlock()
	key := cacheKey{s, rev}
	if _, ok := c.items[key]; ok {
		return
	}
	for k, old := range c.items {
		if c.bytes+item.size <= c.limit {
			break
		}
		delete(c.items, k)
		c.bytes -= old.size
	}
	c.items[key] = item
	c.bytes += item.size
}

// take removes an object, for a version that was superseded.
func (c *objectCache) take(s *Storage, rev uint64) kruntime.Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	item := c.items[cacheKey{s, rev}]
	if item == nil {
		return nil
	}
	delete(c.items, cacheKey{s, rev})
	c.bytes -= item.size
	return item.obj
}

// sweep removes what nobody has read for long, and returns its size in encoded bytes.
func (c *objectCache) sweep() int64 {
	now := c.sweeps.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.bytes
	for k, item := range c.items {
		if item.until.Load() <= now {
			delete(c.items, k)
			c.bytes -= item.size
		}
	}
	if len(c.items) == 0 {
		c.items = map[cacheKey]*cached{} // a map does not shrink
	}
	return before - c.bytes
}

// tick sweeps when it is time to. Much that was removed is collected at once: an idle process collects every two
// minutes only.
func (c *objectCache) tick(now time.Time) {
	if now.Sub(c.swept) < sweepInterval {
		return
	}
	c.swept = now
	if c.sweep() >= sweptMuch {
		runtime.GC()
	}
}

// purge removes all objects of one storage.
func (c *objectCache) purge(s *Storage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, item := range c.items {
		if k.s == s {
			delete(c.items, k)
			c.bytes -= item.size
		}
	}
}
