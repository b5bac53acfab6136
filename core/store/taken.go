package store

import (
	"context"

	"k8s.io/apimachinery/pkg/watch"
)

// Taken is a watch whose events are taken by whoever serves it, in its own
// goroutine and several at once: a goroutine and a channel less on the way of each
// event to each watcher. Storage.Watch returns one if its context is of WithTaken,
// and nobody else may then read ResultChan.
type Taken interface {
	watch.Interface
	// Take appends the events that are there until there are limit, without waiting.
	// It tells whether the watch is over: the events are then its last.
	Take(into []watch.Event, limit int) (events []watch.Event, over bool)
	// Wait returns true when Take may have something to say, false when stop is closed.
	Wait(stop <-chan struct{}) bool
}

type takenKey struct{}

// WithTaken asks for a watch that is Taken. A storage that has none returns
// another one. The watch ends with ctx, or by Stop.
func WithTaken(ctx context.Context) context.Context { return context.WithValue(ctx, takenKey{}, true) }

// takenWatcher is a watcher without a goroutine.
type takenWatcher struct {
	*watcher
	batch []*event // from the queue, or the backlog
	next  int      // the first of batch that was not taken
	over  bool
}

var _ Taken = (*takenWatcher)(nil)

// serve has the watcher's events delivered: by a goroutine, or by who takes them.
// The caller holds DB.mu.
func (w *watcher) serve() watch.Interface {
	if taken, _ := w.ctx.Value(takenKey{}).(bool); !taken {
		w.s.db.wg.Go(w.run) // ended by w.ctx, Close or its own fault
		return w
	}
	t := &takenWatcher{watcher: w, batch: w.backlog}
	w.backlog = nil
	context.AfterFunc(w.ctx, func() {
		w.leave()
		w.wake()
	})
	return t
}

// leave takes the watcher off the list of those that get events.
func (w *watcher) leave() {
	w.s.mu.Lock()
	w.s.watchers.remove(w)
	w.s.mu.Unlock()
}

// wake has the queue looked at.
func (w *watcher) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// Wait implements Taken.
func (t *takenWatcher) Wait(stop <-chan struct{}) bool {
	select {
	case <-t.signal:
		return true
	case <-stop:
		return false
	}
}

// Take implements Taken.
func (t *takenWatcher) Take(events []watch.Event, limit int) ([]watch.Event, bool) {
	if t.fault != nil {
		events, t.fault = t.last(events, t.fault), nil
	}
	for len(events) < limit {
		if t.over || t.ctx.Err() != nil || t.s.db.closed.Load() {
			return events, true
		}
		if t.next == len(t.batch) && !t.more() {
			break
		}
		ev := t.batch[t.next]
		t.batch[t.next] = nil // large backlogs are given back as they go
		t.next++
		switch out, err := t.convert(ev); {
		case err != nil:
			events = t.last(events, err)
		case out != nil:
			events = append(events, *out)
		}
	}
	return events, t.over
}

// last appends the error that ends the watch.
func (t *takenWatcher) last(events []watch.Event, err error) []watch.Event {
	t.over = true
	if ev := t.failure(err); ev != nil {
		events = append(events, *ev)
	}
	return events
}

// more fetches what is queued, and is false if nothing is, or the watch is over.
func (t *takenWatcher) more() bool {
	batch := t.batch[:0]
	if cap(batch) > resultBuffer {
		batch = nil
	}
	t.mu.Lock()
	t.batch, t.queue = t.queue, batch
	cut := t.cut
	t.mu.Unlock()
	t.next = 0
	if cut {
		t.logCut()
		t.over = true
		return false
	}
	return len(t.batch) > 0
}

// Stop implements watch.Interface.
func (t *takenWatcher) Stop() { t.cancel() }

// ResultChan implements watch.Interface, for those who cannot take: it hands on
// what is taken, until the watch is over.
func (t *takenWatcher) ResultChan() <-chan watch.Event {
	db := t.s.db
	db.mu.RLock() // Close waits for what was begun before it
	defer db.mu.RUnlock()
	if db.closed.Load() {
		close(t.result)
		return t.result
	}
	t.backlog, t.batch, t.next = t.batch[t.next:], nil, 0
	db.wg.Go(t.run)
	return t.result
}
