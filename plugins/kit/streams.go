package kit

import "sync"

// streams counts what a process serves to others beyond its activation.
type streams struct {
	mu     sync.Mutex // guards all below
	open   int
	told   bool    // the kernel follows the number: the plugin is not active
	turned *wakeup // fires when it changes
}

// Stream counts a stream that others have open (an exec session, a log that is followed)
// until the function returned is called, once. The kernel keeps a process that was replaced
// until its streams have ended, for an hour at most.
func (e *Env) Stream() (end func()) {
	if e.streams == nil {
		return func() {}
	}
	e.streams.add(1)
	return sync.OnceFunc(func() { e.streams.add(-1) })
}

func (s *streams) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
	if s.told {
		s.turned.fire()
	}
}

// count is how many are open.
func (s *streams) count() int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int32(s.open)
}

// tell says whether changes are to be told.
func (s *streams) tell(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = yes
}
