package sim

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// entry is a place in an agenda. The zero value is in none.
type entry struct {
	at    time.Duration // after the agenda's beginning
	place int32         // in the heap, from 1; 0: not in it
}

// slot makes a type that embeds an entry fit for an agenda.
func (e *entry) slot() *entry { return e }

// item is what stands in an agenda.
type item interface {
	comparable
	slot() *entry
}

// agenda says what is to be done when: a heap by time, each item in it at most once.
type agenda[T item] struct {
	begin time.Time
	wake  chan struct{} // holds a token when the first item is another one

	mu    sync.Mutex // guards the items' entries and all below
	items []T
}

func newAgenda[T item]() *agenda[T] {
	return &agenda[T]{begin: time.Now(), wake: make(chan struct{}, 1)}
}

// set enters x, or moves it to another time.
func (a *agenda[T]) set(x T, after time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := x.slot()
	e.at = time.Since(a.begin) + after
	if e.place == 0 {
		heap.Push((*order[T])(a), x)
	} else {
		heap.Fix((*order[T])(a), int(e.place)-1)
	}
	if e.place == 1 {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// drop takes x out.
func (a *agenda[T]) drop(x T) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if place := x.slot().place; place != 0 {
		heap.Remove((*order[T])(a), int(place)-1)
	}
}

// run hands out what is due until ctx ends, and closes out. lag is told how late it is.
func (a *agenda[T]) run(ctx context.Context, out chan<- T, lag func(time.Duration)) {
	defer close(out)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		x, wait, ok := a.next()
		if ok {
			select {
			case out <- x:
				lag(-wait)
				continue
			case <-ctx.Done():
				return
			}
		}
		timer.Reset(wait)
		select {
		case <-a.wake:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first item if it is due. Else wait is how long until then.
func (a *agenda[T]) next() (x T, wait time.Duration, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.items) == 0 {
		return x, time.Hour, false
	}
	if wait = a.items[0].slot().at - time.Since(a.begin); wait > 0 {
		return x, wait, false
	}
	return heap.Pop((*order[T])(a)).(T), wait, true
}

// order is an agenda as container/heap wants it.
type order[T item] agenda[T]

// Len implements heap.Interface.
func (o *order[T]) Len() int { return len(o.items) }

// Less implements heap.Interface.
func (o *order[T]) Less(i, j int) bool { return o.items[i].slot().at < o.items[j].slot().at }

// Swap implements heap.Interface.
func (o *order[T]) Swap(i, j int) {
	o.items[i], o.items[j] = o.items[j], o.items[i]
	o.items[i].slot().place, o.items[j].slot().place = int32(i+1), int32(j+1)
}

// Push implements heap.Interface.
func (o *order[T]) Push(x any) {
	o.items = append(o.items, x.(T))
	x.(T).slot().place = int32(len(o.items))
}

// Pop implements heap.Interface.
func (o *order[T]) Pop() any {
	last := len(o.items) - 1
	x := o.items[last]
	var none T
	o.items[last] = none
	o.items = o.items[:last]
	x.slot().place = 0
	return x
}
