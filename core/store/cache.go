package store

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
)

// objectCache keeps decoded objects by revision. An object in it is never changed. What falls out of it is decoded
// again when it is needed, so it evicts whatever comes to hand.
type objectCache struct {
	limit int64

	mu    sync.RWMutex // guards items and bytes
	items map[cacheKey]cached
	bytes int64
}

// cacheKey names an object as one resource's storage decodes it.
type cacheKey struct {
	s   *Storage
	rev uint64
}

type cached struct {
	obj  runtime.Object
	size int64
}

// cachedOverhead is about what an entry takes besides its object.
const cachedOverhead = 128

func newObjectCache(limit int64) *objectCache {
	return &objectCache{limit: limit, items: map[cacheKey]cached{}}
}

func (c *objectCache) get(s *Storage, rev uint64) runtime.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.items[cacheKey{s, rev}].obj
}

// add keeps obj, which nobody may change any more; size is that of its encoded form.
func (c *objectCache) add(s *Storage, rev uint64, obj runtime.Object, size int) {
	if c.limit <= 0 {
		return
	}
	item := cached{obj: obj, size: int64(size) + cachedOverhead}
	if item.size > c.limit/8 {
		return
	}
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
func (c *objectCache) take(s *Storage, rev uint64) runtime.Object {
	c.mu.Lock()
	defer c.mu.Unlock()
	item, ok := c.items[cacheKey{s, rev}]
	if ok {
		delete(c.items, cacheKey{s, rev})
		c.bytes -= item.size
	}
	return item.obj
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
