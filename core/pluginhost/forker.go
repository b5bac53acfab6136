package pluginhost

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// forker starts processes from one operating system thread that lives as long as they
// do. Linux sends the parent-death signal when the thread that started a child ends, not
// the process; Go ends threads as it likes, unless a goroutine is locked to them.
type forker struct {
	work chan func()
	quit chan struct{}
	main bool // it is the process's main thread, which OnMainThread serves
	once sync.Once
	done chan struct{} // closed when serve has ended
}

// mainForker starts processes from the main thread while OnMainThread runs.
var mainForker atomic.Pointer[forker]

// OnMainThread runs f beside the calling goroutine and has hosts start their processes from
// its thread. The caller is the main goroutine, locked to the main thread by
// runtime.LockOSThread in an init function. A program that takes this one's place (State.Exec)
// has that thread only, so what is to live on after a second time has to be started from it.
func OnMainThread(f func() error) error {
	m := &forker{work: make(chan func()), quit: make(chan struct{}), main: true}
	mainForker.Store(m)
	defer mainForker.Store(nil)
	done := make(chan error, 1)
	go func() { done <- f(); close(m.quit) }() // ends the loop
	m.run()
	return <-done
}

// newForker is the main thread's, or a new one.
func newForker() *forker {
	if m := mainForker.Load(); m != nil {
		return m
	}
	return &forker{work: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
}

// start has the thread work until stop; a second call does nothing.
func (f *forker) start() {
	if !f.main {
		f.once.Do(func() { go f.serve() })
	}
}

// serve ends without unlocking: the thread ends too, which kills whatever it started and
// is still there.
func (f *forker) serve() {
	defer close(f.done)
	runtime.LockOSThread()
	f.run()
}

func (f *forker) run() {
	for {
		select {
		case w := <-f.work:
			w()
		case <-f.quit:
			return
		}
	}
}

// do runs start on the thread and waits for it.
func (f *forker) do(start func() error) error {
	result := make(chan error, 1)
	f.work <- func() { result <- start() }
	return <-result
}

// stop ends the thread. No do may be under way or follow.
func (f *forker) stop() {
	if !f.main {
		close(f.quit)
		<-f.done
	}
}
