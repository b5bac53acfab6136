package pluginhost

import "runtime"

// forker starts processes from one operating system thread that lives as long as they
// do. Linux sends the parent-death signal when the thread that started a child ends, not
// the process; Go ends threads as it likes, unless a goroutine is locked to them.
type forker struct {
	work chan func()
	quit chan struct{}
}

func newForker() *forker { return &forker{work: make(chan func()), quit: make(chan struct{})} }

// run is the locked goroutine. It ends by stop, without unlocking: the thread ends too,
// which kills whatever it started and is still there.
func (f *forker) run() {
	runtime.LockOSThread()
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

// stop ends run. No do may be under way or follow.
func (f *forker) stop() { close(f.quit) }
