package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
)

// resultBuffer is how many events may lie in a watch's channel.
const resultBuffer = 100

// watcher is one open watch. Its goroutine takes events from the queue, filters them and sends them on; it ends
// with the watch's context, or when the watcher was cut off.
type watcher struct {
	s         *Storage
	key       string // or prefix, if recursive
	recursive bool
	all       bool // the predicate matches everything
	shared    bool // the predicate looks at what Storage.getAttrs returns
	pred      storage.SelectionPredicate
	after     uint64 // events up to this revision are not sent
	ctx       context.Context
	cancel    context.CancelFunc
	result    chan watch.Event

	sorted bool   // it wants one value of the storage's trigger field
	value  string // namely this

	backlog []*event // what happened before the watcher was registered
	fault   error    // ends the watch at its start

	mu       sync.Mutex // guards queue, cut, bookmark times
	queue    []*event
	cut      bool
	signal   chan struct{} // capacity 1: there is something in the queue
	nextMark time.Time     // when the next bookmark is due; zero for a watch without bookmarks
	lastMark uint64        // revision of the last bookmark
	deadline time.Time     // a bookmark is sent shortly before it, so that the client can resume cheaply
}

// Watch implements storage.Interface.
func (s *Storage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := s.prepareKey(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	rev, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil { // as a list says it; the bare error would be a 500
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	w := &watcher{s: s, key: key, recursive: opts.Recursive, pred: opts.Predicate, after: rev}
	w.all = w.pred.Empty()
	w.sortByTrigger(&w.pred)
	w.shared = s.getAttrs != nil && (w.pred.ShardSelector == nil || w.pred.ShardSelector.Empty())
	w.result, w.signal = make(chan watch.Event, resultBuffer), make(chan struct{}, 1)
	w.ctx, w.cancel = context.WithCancel(ctx)
	if opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify {
		w.nextMark = time.Now().Add(jitter(s.db.opts.BookmarkInterval))
		w.deadline, _ = ctx.Deadline()
	}
	served, err := s.register(w, rev, opts)
	if err != nil {
		w.cancel()
		return nil, err
	}
	utilflowcontrol.WatchInitialized(ctx)
	return served, nil
}

// jitter spreads the bookmarks of many watches.
func jitter(d time.Duration) time.Duration {
	return d - d/8 + time.Duration(rand.Int64N(int64(d/4)+1))
}

// register fixes what the watcher gets from history and enters it for what comes, in one step: publish holds db.mu.
func (s *Storage) register(w *watcher, rev uint64, opts storage.ListOptions) (watch.Interface, error) {
	watchList := utilfeature.DefaultFeatureGate.Enabled(features.WatchList)
	initial := opts.SendInitialEvents == nil && rev == 0 // how it was before there was the option
	endMark := false
	if watchList && opts.SendInitialEvents != nil {
		initial = *opts.SendInitialEvents
		endMark = initial && opts.Predicate.AllowWatchBookmarks
	}
	db := s.db
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed.Load() {
		return nil, ErrClosed
	}
	switch {
	case initial && rev > db.rev:
		w.fault = storage.NewTooLargeResourceVersionError(rev, db.rev, 1+rand.IntN(3))
	case initial:
		w.after = db.rev
		w.backlog = s.present(w)
		if endMark {
			w.backlog = append(w.backlog, &event{s: s, kind: eventBookmark, rev: db.rev, initialEnd: true})
		}
	case rev == 0:
		w.after = db.rev
	case rev < db.compact:
		w.fault = apierrors.NewResourceExpired(msgWatchExpired)
	default:
		w.backlog = s.history(w, rev)
	}
	s.mu.Lock()
	s.watchers.add(w)
	s.mu.Unlock()
	return w.serve(), nil
}

// present returns what exists as events. The caller holds db.mu.
func (s *Storage) present(w *watcher) (events []*event) {
	w.entries(func(e *entry) {
		if v := e.latest(); v != nil {
			events = append(events, &event{s: s, kind: eventAdded, key: e.key, rev: v.rev})
		}
	})
	return events
}

// history returns what happened after rev. The caller holds db.mu.
func (s *Storage) history(w *watcher, rev uint64) (events []*event) {
	w.entries(func(e *entry) {
		for i, v := range e.versions {
			if v.rev <= rev {
				continue
			}
			ev := &event{s: s, kind: eventModified, key: e.key, rev: v.rev}
			if i > 0 && !e.versions[i-1].dead {
				ev.prev = e.versions[i-1].rev
			}
			switch {
			case v.dead:
				ev.kind = eventDeleted
			case ev.prev == 0:
				ev.kind = eventAdded
			}
			events = append(events, ev)
		}
	})
	slices.SortFunc(events, func(a, b *event) int {
		if a.rev < b.rev {
			return -1
		}
		return 1
	})
	return events
}

func (w *watcher) entries(f func(*entry)) {
	x := w.s.db.index
	if !w.recursive {
		if e := x.get(w.key); e != nil {
			f(e)
		}
		return
	}
	x.ascend(w.key, "", func(e *entry) bool { f(e); return true })
}

// publish queues the event of a change for all watchers it concerns; wakeWatchers has them look. The caller holds
// db.mu.
func (db *DB) publish(c *pending) {
	for _, s := range db.storages {
		if !strings.HasPrefix(c.record.key, s.prefix) {
			continue
		}
		ev := s.newEvent(c)
		if s == c.op.storage {
			c.op.event = ev
		}
		s.mu.Lock()
		values := c.op.trigger
		values.known = values.known && s == c.op.storage // another storage may sort by another field
		s.byTrigger.note(&c.record, values)
		s.watchers.concerned(values, func(w *watcher) {
			if (w.recursive && strings.HasPrefix(ev.key, w.key) || w.key == ev.key) && w.enqueue(ev) {
				db.woken = append(db.woken, w)
			}
		})
		s.mu.Unlock()
	}
	if s := c.op.storage; s != nil && c.op.event == nil { // it was destroyed while the write waited
		c.op.event = s.newEvent(c)
	}
}

// wakeWatchers wakes those who got events since it was last called. One that is woken by the first event of a group
// would often miss the others, and have to be woken again. The caller holds db.mu.
func (db *DB) wakeWatchers() {
	for _, w := range db.woken {
		w.wake()
	}
	clear(db.woken)
	if db.woken = db.woken[:0]; cap(db.woken) > 1<<16 {
		db.woken = nil
	}
}

// enqueue never waits: a watcher that has fallen too far behind is cut off. It tells whether the watcher has to be
// woken; who was and has not looked yet sees this event as well.
func (w *watcher) enqueue(ev *event) bool {
	if ev.rev <= w.after && ev.kind != eventBookmark {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	if len(w.queue) >= w.s.db.opts.WatchQueue {
		w.cut, w.queue = true, nil
		return true
	}
	w.queue = append(w.queue, ev)
	return len(w.queue) == 1
}

// mark queues a bookmark if one is due. The caller holds db.mu, so all events up to rev are queued.
func (w *watcher) mark(now time.Time, rev uint64, force bool) {
	w.mu.Lock()
	due := !w.nextMark.IsZero() && (force || now.After(w.nextMark))
	if !w.deadline.IsZero() && now.After(w.deadline.Add(-2*time.Second)) {
		due, w.deadline = true, time.Time{}
	}
	if due {
		w.nextMark = now.Add(jitter(w.s.db.opts.BookmarkInterval))
		due = rev > w.lastMark && rev >= w.after
		w.lastMark = max(w.lastMark, rev)
	}
	w.mu.Unlock()
	if due && w.enqueue(&event{s: w.s, kind: eventBookmark, rev: rev}) {
		w.wake()
	}
}

// RequestWatchProgress implements storage.Interface: watches that asked for bookmarks get one at once.
func (s *Storage) RequestWatchProgress(context.Context) error {
	s.db.mu.RLock()
	defer s.db.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers.each(func(w *watcher) { w.mark(time.Now(), s.db.rev, true) })
	return nil
}

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

func (w *watcher) run() {
	defer close(w.result)
	defer func() {
		w.leave()
		w.cancel()
	}()
	if w.fault != nil {
		w.sendError(w.fault)
		return
	}
	events := w.backlog
	w.backlog = nil
	for {
		for i, ev := range events {
			events[i] = nil // large backlogs are given back as they go
			if !w.deliver(ev) {
				return
			}
		}
		select {
		case <-w.signal:
		case <-w.ctx.Done():
			return
		case <-w.s.db.ctx.Done():
			return
		}
		w.mu.Lock()
		events, w.queue = w.queue, nil
		cut := w.cut
		w.mu.Unlock()
		if cut {
			w.logCut()
			return
		}
	}
}

// deliver sends what the watcher is to see of an event; false ends the watch.
func (w *watcher) deliver(ev *event) bool {
	if w.ctx.Err() != nil {
		return false
	}
	out, err := w.convert(ev)
	if err != nil {
		w.sendError(err)
		return false
	}
	return out == nil || w.send(*out)
}

func (w *watcher) send(ev watch.Event) bool {
	select {
	case w.result <- ev:
		return true
	default:
	}
	select {
	case w.result <- ev:
		return true
	case <-w.ctx.Done():
		return false
	case <-w.s.db.ctx.Done():
		return false
	}
}

func (w *watcher) logCut() {
	w.s.db.log.Warn("Cut off a slow watch", "resource", w.s.resource.String(), "key", w.key, "limit", w.s.db.opts.WatchQueue)
}

// convert makes the event that the watcher is to see, nil if it is to see nothing.
func (w *watcher) convert(ev *event) (*watch.Event, error) {
	if ev.kind == eventBookmark {
		return w.bookmark(ev)
	}
	isMatch, wasMatch := false, false
	var err error
	if ev.kind != eventDeleted {
		if isMatch, err = w.matches(ev.current()); err != nil {
			return nil, err
		}
	}
	if ev.kind == eventDeleted || ev.kind == eventModified && !w.all {
		if wasMatch, err = w.matches(ev.previous()); err != nil {
			return nil, err
		}
	}
	switch {
	case isMatch && ev.kind == eventModified && (wasMatch || w.all):
		return &watch.Event{Type: watch.Modified, Object: ev.current().shared}, nil
	case isMatch:
		return &watch.Event{Type: watch.Added, Object: ev.current().shared}, nil
	case wasMatch:
		return &watch.Event{Type: watch.Deleted, Object: ev.previous().shared}, nil
	}
	return nil, nil
}

func (w *watcher) matches(d *decoded) (bool, error) {
	if d.err != nil || w.all {
		return d.err == nil, d.err
	}
	if !w.shared {
		ok, err := w.pred.Matches(d.obj)
		return ok && err == nil, nil
	}
	labels, fields, err := d.attrs(w.s)
	return err == nil && w.pred.MatchesObjectAttributes(labels, fields), nil
}

func (w *watcher) bookmark(ev *event) (*watch.Event, error) {
	obj := w.s.newFunc()
	if err := w.s.versioner.UpdateObject(obj, ev.rev); err != nil {
		return nil, fmt.Errorf("set revision of bookmark: %w", err)
	}
	if ev.initialEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return nil, fmt.Errorf("annotate bookmark: %w", err)
		}
	}
	return &watch.Event{Type: watch.Bookmark, Object: obj}, nil
}
