package store

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// takenStorage serves watches from what is taken, as the API server does.
type takenStorage struct {
	*Storage
	t testing.TB
}

// Watch implements storage.Interface.
func (s *takenStorage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := s.Storage.Watch(WithTaken(ctx), key, opts)
	if err != nil {
		return nil, err
	}
	taken, ok := w.(Taken)
	if !ok {
		s.t.Fatalf("watch is a %T, want a Taken", w)
	}
	p := &pumped{Taken: taken, out: make(chan watch.Event, resultBuffer), stop: make(chan struct{})}
	s.t.Cleanup(p.Stop)
	go p.run()
	return p, nil
}

// pumped is the channel of a Taken.
type pumped struct {
	Taken
	out  chan watch.Event
	once sync.Once
	stop chan struct{}
}

// ResultChan implements watch.Interface.
func (p *pumped) ResultChan() <-chan watch.Event { return p.out }

// Stop implements watch.Interface.
func (p *pumped) Stop() {
	p.once.Do(func() { close(p.stop) })
	p.Taken.Stop()
}

func (p *pumped) run() {
	defer close(p.out)
	for {
		events, over := p.Take(nil, 3)
		for _, ev := range events {
			select {
			case p.out <- ev:
			case <-p.stop:
				return
			}
		}
		if over || len(events) == 0 && !p.Wait(p.stop) {
			return
		}
	}
}

// TestTakenSuite runs the watch part of the library's suite on watches that are
// taken.
func TestTakenSuite(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(context.Context, *testing.T, *takenStorage)
	}{
		{"Watch", taken(storagetesting.RunTestWatch)},
		{"ClusterScopedWatch", taken(storagetesting.RunTestClusterScopedWatch)},
		{"NamespaceScopedWatch", taken(storagetesting.RunTestNamespaceScopedWatch)},
		{"DeleteTriggerWatch", taken(storagetesting.RunTestDeleteTriggerWatch)},
		{"WatchFromZero", func(ctx context.Context, t *testing.T, s *takenStorage) {
			storagetesting.RunTestWatchFromZero(ctx, t, s, compaction(s.Storage))
		}},
		{"WatchFromNonZero", taken(storagetesting.RunTestWatchFromNonZero)},
		{"DelayedWatchDelivery", taken(storagetesting.RunTestDelayedWatchDelivery)},
		{"WatchContextCancel", taken(storagetesting.RunTestWatchContextCancel)},
		{"WatchDeleteEventObjectHaveLatestRV", taken(storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV)},
		{"WatchInitializationSignal", taken(storagetesting.RunTestWatchInitializationSignal)},
		{"WatchSemantics", taken(storagetesting.RunWatchSemantics)},
		{"WatchSemanticInitialEventsExtended", taken(storagetesting.RunWatchSemanticInitialEventsExtended)},
		{"WatchListMatchSingle", taken(storagetesting.RunWatchListMatchSingle)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, s := newTest(t, fixture{})
			tt.run(ctx, t, &takenStorage{Storage: s, t: t})
		})
	}
}

func taken(run func(context.Context, *testing.T, storage.Interface)) func(context.Context, *testing.T, *takenStorage) {
	return func(ctx context.Context, t *testing.T, s *takenStorage) { run(ctx, t, s) }
}

// TestTakenSameAsChannel compares what two kinds of watches of one storage say,
// from history and live.
func TestTakenSameAsChannel(t *testing.T) {
	ctx, s := newTest(t, fixture{getAttrs: podAttrs})
	change := func(from, to int) {
		for i := from; i < to; i++ {
			mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d", i)))
			label(ctx, t, s, fmt.Sprintf("/pods/ns/p-%d", i), "in")
			if i%2 == 0 {
				if err := s.Delete(ctx, fmt.Sprintf("/pods/ns/p-%d", i), &example.Pod{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	change(0, 20)
	opts := storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything}
	var all []<-chan watch.Event
	for _, from := range []storage.Interface{s, &takenStorage{Storage: s, t: t}} {
		w, err := from.Watch(ctx, "/pods/", opts)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		all = append(all, w.ResultChan())
	}
	change(20, 40)
	for i := range 40*2 + 20 {
		var said []string
		for _, events := range all {
			ev := <-events
			obj, ok := ev.Object.(kruntime.CacheableObject)
			if !ok {
				t.Fatalf("event %d is %v", i, ev)
			}
			p := obj.GetObject().(*example.Pod)
			said = append(said, fmt.Sprintf("%s %s %s %v", ev.Type, p.Name, p.ResourceVersion, p.Labels))
		}
		if len(slices.Compact(said)) != 1 {
			t.Fatalf("event %d: channel and taken differ: %q", i, said)
		}
	}
}

// TestTakenEnds checks that who waits learns of each end, and that the storage
// forgets the watch.
func TestTakenEnds(t *testing.T) {
	never := make(chan struct{})
	for _, tt := range []struct {
		name string
		end  func(*DB, *Storage, Taken, context.CancelFunc)
	}{
		{"context", func(_ *DB, _ *Storage, _ Taken, cancel context.CancelFunc) { cancel() }},
		{"stop", func(_ *DB, _ *Storage, w Taken, _ context.CancelFunc) { w.Stop() }},
		{"storage destroyed", func(_ *DB, s *Storage, _ Taken, _ context.CancelFunc) { s.destroy() }},
		{"store closed", func(db *DB, _ *Storage, _ Taken, _ context.CancelFunc) { _ = db.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, s := newTest(t, fixture{})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			w, err := s.Watch(WithTaken(ctx), "/pods/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
			if err != nil {
				t.Fatal(err)
			}
			over := make(chan struct{})
			go func() {
				defer close(over)
				for {
					if _, end := w.(Taken).Take(nil, 10); end {
						return
					}
					w.(Taken).Wait(never)
				}
			}()
			tt.end(s.db, s, w.(Taken), cancel)
			<-over
			if tt.name != "store closed" {
				waitForgotten(s)
			}
		})
	}
}

// waitForgotten returns when a storage has no watchers.
func waitForgotten(s *Storage) {
	for n := -1; n != 0; runtime.Gosched() {
		n = 0
		s.mu.Lock()
		s.watchers.each(func(*watcher) { n++ })
		s.mu.Unlock()
	}
}

// TestTakenCut checks that a watch that is not taken is cut off, and that a stop is
// heard while there is nothing.
func TestTakenCut(t *testing.T) {
	ctx, s := newTest(t, fixture{options: Options{WatchQueue: 5}})
	got, err := s.Watch(WithTaken(ctx), "/pods/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Stop()
	w := got.(Taken)
	stop := make(chan struct{})
	close(stop)
	if w.Wait(stop) {
		t.Error("Wait had something although nothing had happened")
	}
	mustCreate(ctx, t, s, pod("ns", "a"))
	if events, over := w.Take(nil, 10); len(events) != 1 || over {
		t.Fatalf("took %v, %v, want one event of a watch that goes on", events, over)
	}
	for i := range 6 {
		mustCreate(ctx, t, s, pod("ns", fmt.Sprintf("p-%d", i)))
	}
	if events, over := w.Take(nil, 10); len(events) != 0 || !over {
		t.Errorf("took %v, %v, want a watch that was cut off", events, over)
	}
}

// TestTakenChannel reads a watch that was asked for as Taken through its channel,
// as one does that does not know.
func TestTakenChannel(t *testing.T) {
	ctx, s := newTest(t, fixture{})
	mustCreate(ctx, t, s, pod("ns", "a"))
	w, err := s.Watch(WithTaken(ctx), "/pods/", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	events := w.ResultChan()
	mustCreate(ctx, t, s, pod("ns", "b"))
	for _, want := range []uint64{2, 3} {
		if got := revisionOf(t, <-events); got != want {
			t.Errorf("got revision %d, want %d", got, want)
		}
	}
	w.Stop()
	for range events { // ends
	}
	waitForgotten(s)
}
