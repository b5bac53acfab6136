package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
)

// What the parent of a crash child says, besides the directory.
const (
	crashResume = "KEELSON_STORE_RESUME" // the last revision that each watcher saw, 0 for none
	crashClose  = "KEELSON_STORE_CLOSE"  // when to close, as a duration; "" for never
)

const (
	crashWriters  = 12 // each with keys of its own
	crashKeys     = 3  // of each writer
	crashWatchers = 3
	crashLease    = "/pods/lease/" // batched
	crashTTL      = "/pods/ttl/"   // objects with an end
)

// crashOptions make Badger flush and compact all the time: a memtable holds a few hundred writes.
func crashOptions(dir string) Options {
	return Options{
		Dir: dir, CompactionWindow: time.Hour, memTable: 512 << 10,
		Batched: []string{crashLease}, BatchInterval: 20 * time.Millisecond,
	}
}

// crasher is the child that writes, watches and compacts until it is killed. It reports on stdout, a line each:
//
//	opened REV COMPACT            before anything is written
//	version KEY REV KIND NUMBER   each version in the store as it was opened, then: dumped
//	ack KEY NUMBER REV KIND       an acknowledged write
//	event WATCHER REV KIND KEY NUMBER
//	compacted REV, closing, closed
type crasher struct {
	db   *DB
	s    *Storage
	ctx  context.Context
	seen [crashWatchers]atomic.Uint64

	mu sync.Mutex // guards stdout
}

func (c *crasher) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}

func childCrash() {
	fmt.Fprintln(os.Stdout, "start")
	db, err := Open(context.Background(), crashOptions(os.Getenv(childDir)))
	if err != nil {
		fmt.Fprintln(os.Stdout, "error open:", err)
		os.Exit(3)
	}
	s, err := db.newStorage(podConfig(fixture{}), "/pods/", newPod, nil, nil)
	if err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
		os.Exit(3)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := &crasher{db: db, s: s, ctx: ctx}
	c.dump()
	var wg sync.WaitGroup
	for i, rev := range strings.Split(os.Getenv(crashResume), ",") {
		wg.Go(func() { c.watch(i, rev) })
	}
	for i := range crashWriters {
		wg.Go(func() { c.write(i) })
	}
	wg.Go(c.compact)
	if d, err := time.ParseDuration(os.Getenv(crashClose)); err == nil {
		<-time.After(d)
		c.say("closing")
		if err := db.Close(); err != nil {
			c.say("error close: %v", err)
		}
		cancel()
		wg.Wait()
		c.say("closed")
		return
	}
	wg.Wait()
}

// dump reads all there is, also at past revisions, as it is at one moment: what an earlier life left to be done may be
// done meanwhile.
func (c *crasher) dump() {
	for {
		entries, rev, compact := c.entries()
		text := c.versions(entries)
		if _, again, compacted := c.entries(); again == rev && compacted == compact {
			c.say("opened %d %d", rev, compact)
			c.say("%sdumped", text)
			return
		}
	}
}

func (c *crasher) entries() (entries []entry, rev, compact uint64) {
	c.db.mu.RLock()
	defer c.db.mu.RUnlock()
	c.db.index.ascend("", "", func(e *entry) bool {
		entries = append(entries, entry{key: e.key, versions: slices.Clone(e.versions)})
		return true
	})
	return entries, c.db.rev, c.db.compact
}

func (c *crasher) versions(entries []entry) string {
	var out strings.Builder
	for _, e := range entries {
		for _, v := range e.versions {
			kind, n := "put", ""
			if v.dead {
				kind, n = "delete", "-"
			} else if obj, err := c.s.readObject(e.key, v.rev); err != nil {
				n = "error:" + strings.ReplaceAll(err.Error(), " ", "_")
			} else {
				n = number(obj)
			}
			fmt.Fprintf(&out, "version %s %d %s %s\n", e.key, v.rev, kind, n)
		}
	}
	return out.String()
}

func number(obj kruntime.Object) string {
	p, ok := obj.(*example.Pod)
	if !ok {
		return "none"
	}
	return p.Labels["n"]
}

func (c *crasher) done(err error) bool {
	if err == nil {
		return false
	}
	if !errors.Is(err, ErrClosed) && c.ctx.Err() == nil && !c.db.closed.Load() {
		c.say("error write: %v", err)
	}
	return true
}

// write works on the keys of one writer. All their writes come from here, so each has to succeed.
func (c *crasher) write(i int) {
	for n := 0; ; n++ {
		name := fmt.Sprintf("%d-%d", i, rand.IntN(crashKeys))
		var err error
		switch {
		case i == 0:
			name = "lease-" + name
			err = c.put(crashLease+name, 0)
		case i == 1 && n%8 == 0:
			err = c.put(crashTTL+fmt.Sprint(time.Now().UnixNano()), 1)
		case rand.IntN(6) == 0:
			err = c.remove("/pods/ns/" + name)
		default:
			err = c.put("/pods/ns/"+name, 0)
		}
		if i == 0 && rand.IntN(20) == 0 && err == nil {
			err = c.remove(crashLease + name)
		}
		if c.done(err) {
			return
		}
	}
}

func (c *crasher) put(key string, ttl uint64) error {
	n := fmt.Sprint(time.Now().UnixNano())
	out := &example.Pod{}
	err := c.s.GuaranteedUpdate(c.ctx, key, out, true, nil, func(o kruntime.Object, _ storage.ResponseMeta) (kruntime.Object, *uint64, error) {
		p := o.(*example.Pod)
		p.Name = key[strings.LastIndex(key, "/")+1:]
		p.Labels = map[string]string{"n": n}
		p.Annotations = map[string]string{"data": strings.Repeat("x", rand.IntN(4000))}
		return p, &ttl, nil
	}, nil)
	if err == nil {
		c.say("ack %s %s %s put", key, n, out.ResourceVersion)
	}
	return err
}

func (c *crasher) remove(key string) error {
	out := &example.Pod{}
	err := c.s.Delete(c.ctx, key, out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if storage.IsNotFound(err) {
		return nil
	}
	if err == nil {
		c.say("ack %s %s %s delete", key, number(out), out.ResourceVersion)
	}
	return err
}

// watch goes on where the parent saw the watcher last.
func (c *crasher) watch(i int, rev string) {
	after, err := strconv.ParseUint(rev, 10, 64)
	if err != nil {
		c.say("error %v", err)
		return
	}
	if after == 0 {
		after = firstRevision
	}
	c.seen[i].Store(after)
	opts := storage.ListOptions{Predicate: storage.Everything, Recursive: true, ResourceVersion: fmt.Sprint(after)}
	opts.Predicate.AllowWatchBookmarks = i == 1
	w, err := c.s.Watch(c.ctx, "/pods/", opts)
	if c.done(err) {
		return
	}
	for ev := range w.ResultChan() {
		obj := ev.Object
		if shared, ok := obj.(kruntime.CacheableObject); ok {
			obj = shared.GetObject()
		}
		p, ok := obj.(*example.Pod)
		if !ok {
			c.say("error watcher %d from %d: %v %v", i, after, ev.Type, obj)
			return
		}
		rev, _ := strconv.ParseUint(p.ResourceVersion, 10, 64)
		if ev.Type != watch.Bookmark {
			c.say("event %d %d %s %s %s", i, rev, ev.Type, p.Name, number(p))
		}
		c.seen[i].Store(rev)
	}
}

// compact drops what all watchers have seen.
func (c *crasher) compact() {
	tick := time.NewTicker(7 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		rev := c.seen[0].Load()
		for i := range c.seen {
			rev = min(rev, c.seen[i].Load())
		}
		if rev > 60 {
			if c.done(c.db.Compact(c.ctx, rev-60)) {
				return
			}
			c.say("compacted %d", c.db.CompactRevision())
		}
	}
}
