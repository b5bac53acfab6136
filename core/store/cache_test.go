package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestCacheSweep checks how long objects stay that nobody reads.
func TestCacheSweep(t *testing.T) {
	const size = 1000
	for _, tt := range []struct {
		name   string
		write  bool // added by a write, else by a read
		readAt int  // sweep after which it is read, 0: never
		stays  int  // sweeps that it outlives
	}{
		{"written", true, 0, keepWritten - 1},
		{"read from disk", false, 0, keepRead - 1},
		{"written, then read", true, 1, keepRead},
		{"read again", false, 5, keepRead + 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, s, pod := newObjectCache(MinCacheBytes), &Storage{}, &corev1.Pod{}
			if tt.write {
				c.addWritten(s, 1, pod, size)
			} else {
				c.add(s, 1, pod, size)
			}
			for n := 1; n <= tt.stays; n++ {
				if got := c.sweep(); got != 0 {
					t.Fatalf("sweep %d removed %d bytes, want 0", n, got)
				}
				if n == tt.readAt && c.get(s, 1) != pod {
					t.Fatalf("after sweep %d the object is gone", n)
				}
			}
			if got := c.sweep(); got != size+cachedOverhead {
				t.Errorf("sweep %d removed %d bytes, want %d", tt.stays+1, got, size+cachedOverhead)
			}
			if c.get(s, 1) != nil || c.bytes != 0 {
				t.Errorf("after the last sweep the cache has the object or counts %d bytes", c.bytes)
			}
		})
	}
}

// TestCacheLimit checks that the bound holds, and that the count of bytes does.
func TestCacheLimit(t *testing.T) {
	const size, limit = 1000, 100 * 1000
	c, s := newObjectCache(limit), &Storage{}
	for rev := range uint64(1000) {
		c.addWritten(s, rev, &corev1.Pod{}, size)
		if c.bytes > limit {
			t.Fatalf("%d bytes are cached, the limit is %d", c.bytes, limit)
		}
	}
	if got, want := c.bytes, int64(len(c.items))*(size+cachedOverhead); got != want || got < limit/2 {
		t.Errorf("%d bytes are counted, want %d, and at least half the limit", got, want)
	}
	for k := range c.items {
		if c.take(k.s, k.rev) == nil {
			t.Errorf("revision %d is cached and cannot be taken", k.rev)
		}
	}
	if c.bytes != 0 {
		t.Errorf("%d bytes are counted in an empty cache", c.bytes)
	}
}
